package kind

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// metalLB is what matters here of MetalLB's manifest.
const metalLB = `
kind: Deployment
metadata: {name: controller}
spec: {template: {spec: {nodeSelector: {kubernetes.io/os: linux}, containers: [{name: controller, args: [--port=7472], readinessProbe: {initialDelaySeconds: 10, periodSeconds: 10}}]}}}
---
kind: DaemonSet
metadata: {name: speaker}
spec: {template: {spec: {nodeSelector: {kubernetes.io/os: linux}, containers: [{name: speaker, args: [--port=7472], readinessProbe: {initialDelaySeconds: 10, periodSeconds: 10}}]}}}
---
kind: ValidatingWebhookConfiguration
metadata: {name: metallb}
webhooks: [{name: one, failurePolicy: Fail}, {name: two, failurePolicy: Fail}]
---
apiVersion: v1
kind: Secret
metadata: {name: metallb-webhook-cert, namespace: metallb-system}
`

// Beside keylab's ingress MetalLB stands on the control plane, which announces the address although kubeadm says that it shall not; for another ingress,
// whose pods may be anywhere, its speakers are on all nodes. Either way nobody waits for its first probe, and the address need not wait for its webhooks.
func TestAdaptMetalLB(t *testing.T) {
	for name, own := range map[string]bool{"keylab's ingress": true, "another": false} {
		t.Run(name, func(t *testing.T) {
			objects, err := decodeManifest([]byte(metalLB))
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range objects {
				if err := adapt(o, netip.MustParseAddr("198.18.20.64"), own); err != nil {
					t.Fatal(err)
				}
			}
			err = eachMap(objects[2].(*unstructured.Unstructured), func(w map[string]any) {
				if w["failurePolicy"] != "Ignore" {
					t.Errorf("a webhook that is not there yet keeps objects out: %v", w)
				}
			}, "webhooks")
			if err != nil {
				t.Fatal(err)
			}
			checkWebhookCertificates(t, objects[3])
			for _, o := range objects[:2] {
				u := o.(*unstructured.Unstructured)
				selector, _, _ := unstructured.NestedStringMap(u.Object, "spec", "template", "spec", "nodeSelector")
				if _, ok := selector["node-role.kubernetes.io/control-plane"]; ok != own || selector["kubernetes.io/os"] != "linux" {
					t.Errorf("%s is on nodes %v", u.GetKind(), selector)
				}
				tolerations, _, _ := unstructured.NestedSlice(u.Object, "spec", "template", "spec", "tolerations")
				if (len(tolerations) == 1) != own {
					t.Errorf("%s tolerates %v", u.GetKind(), tolerations)
				}
				err := eachContainer(u, func(c map[string]any) {
					if want := own && u.GetKind() == "DaemonSet"; slices.Contains(c["args"].([]any), any("--ignore-exclude-lb")) != want {
						t.Errorf("%s has the arguments %v", u.GetKind(), c["args"])
					}
					if probe := c["readinessProbe"].(map[string]any); probe["initialDelaySeconds"] != int64(1) || probe["periodSeconds"] != int64(1) {
						t.Errorf("%s is asked whether it is ready: %v", u.GetKind(), probe)
					}
					if env := c["env"].([]any)[0].(map[string]any); env["name"] != "KUBERNETES_SERVICE_HOST" || env["value"] != "198.18.20.64" {
						t.Errorf("%s asks %v", u.GetKind(), env)
					}
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// checkWebhookCertificates looks as MetalLB's controller does, which makes others where these do not do: at what will hold in 90 days.
func checkWebhookCertificates(t *testing.T, o runtime.Object) {
	t.Helper()
	var secret corev1.Secret
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.(*unstructured.Unstructured).Object, &secret); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(secret.Data["ca.crt"]) {
		t.Fatalf("there is no CA: %s", secret.Data["ca.crt"])
	}
	for file, name := range map[string]string{"ca": "cert", "tls": "metallb-webhook-service.metallb-system.svc"} {
		pair, err := tls.X509KeyPair(secret.Data[file+".crt"], secret.Data[file+".key"])
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if block, _ := pem.Decode(secret.Data[file+".key"]); block.Type != "RSA PRIVATE KEY" {
			t.Errorf("%s: its key is a %s, which the controller cannot read", file, block.Type)
		}
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: time.Now().AddDate(0, 0, 90)}); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}
