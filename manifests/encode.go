package manifests

import (
	"encoding/json"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// Encode writes objects as one YAML file, as kubectl apply takes it.
func Encode(w io.Writer, objects []runtime.Object) error {
	for _, o := range objects {
		data, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("encode an object of type %T: %w", o, err)
		}
		var u unstructured.Unstructured
		if err := json.Unmarshal(data, &u.Object); err != nil {
			return fmt.Errorf("encode an object of type %T: %w", o, err)
		}
		// What the API server fills in says nothing here.
		unstructured.RemoveNestedField(u.Object, "status")
		for _, path := range [][]string{{"metadata"}, {"spec", "template", "metadata"}} {
			unstructured.RemoveNestedField(u.Object, append(path, "creationTimestamp")...)
		}
		text, err := yaml.Marshal(u.Object)
		if err != nil {
			return fmt.Errorf("encode an object of type %T: %w", o, err)
		}
		if _, err := fmt.Fprintf(w, "---\n%s", text); err != nil {
			return err
		}
	}
	return nil
}

// Redact takes the contents out of Secrets and returns the objects: for a look at them that gives nothing away.
func Redact(objects []runtime.Object) []runtime.Object {
	out := make([]runtime.Object, len(objects))
	for i, o := range objects {
		if s, ok := o.(*corev1.Secret); ok {
			s = s.DeepCopy()
			for key := range s.Data {
				s.Data[key] = []byte("not shown")
			}
			o = s
		}
		out[i] = o
	}
	return out
}
