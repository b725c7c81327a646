package kind

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/klog/v2"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/kind/hostlink"
)

// fieldManager is keylab's name as the owner of what it applies.
const fieldManager = "keylab"

// kube speaks with the cluster's API server.
type kube struct {
	config  *rest.Config
	typed   *kubernetes.Clientset
	dynamic *dynamic.DynamicClient
}

// cluster is a client of the lab's API server.
func (l *Lab) cluster() (*kube, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kube != nil {
		return l.kube, nil
	}
	klog.SetLogger(logr.Discard()) // the client tells of connections that were closed on purpose
	config, err := clientcmd.BuildConfigFromFlags("", l.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read the lab's kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 50, 100
	compact := rest.CopyConfig(config) // what is asked most is asked several times a second: JSON would cost both sides more
	compact.ContentType, compact.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	typed, err := kubernetes.NewForConfig(compact)
	if err != nil {
		return nil, fmt.Errorf("reach the cluster: %w", err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("reach the cluster: %w", err)
	}
	l.kube = &kube{config, typed, dyn}
	return l.kube, nil
}

// apply makes objects so, whether they are there or not (server-side apply). One whose kind the API server does not know yet, or whose
// webhook does not answer yet, is tried again until ctx ends.
func (k *kube) apply(ctx context.Context, objects []runtime.Object) error {
	for _, o := range objects {
		u, err := untyped(o)
		if err != nil {
			return err
		}
		if err := k.applyOne(ctx, u); err != nil {
			return fmt.Errorf("apply %s %s: %w", u.GetKind(), strings.TrimPrefix(u.GetNamespace()+"/"+u.GetName(), "/"), err)
		}
	}
	return nil
}

func untyped(o runtime.Object) (*unstructured.Unstructured, error) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		return u, nil
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, fmt.Errorf("encode an object of type %T: %w", o, err)
	}
	u := &unstructured.Unstructured{Object: content}
	if u.GetKind() == "" {
		kinds, _, err := scheme.Scheme.ObjectKinds(o)
		if err != nil {
			return nil, fmt.Errorf("encode an object of type %T: %w", o, err)
		}
		u.SetGroupVersionKind(kinds[0])
	}
	unstructured.RemoveNestedField(u.Object, "status")
	unstructured.RemoveNestedField(u.Object, "metadata", "creationTimestamp")
	return u, nil
}

func (k *kube) applyOne(ctx context.Context, u *unstructured.Unstructured) error {
	// No object of a lab has a plural that this guess does not find.
	resource, _ := meta.UnsafeGuessKindToResource(u.GroupVersionKind())
	var client dynamic.ResourceInterface = k.dynamic.Resource(resource)
	if u.GetNamespace() != "" {
		client = k.dynamic.Resource(resource).Namespace(u.GetNamespace())
	}
	return retry(ctx, func(ctx context.Context) (again bool, err error) {
		_, err = client.Apply(ctx, u.GetName(), u, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
		return apierrors.IsNotFound(err) || apierrors.IsInternalError(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err), err
	})
}

// retry repeats what may succeed later.
func retry(ctx context.Context, do func(context.Context) (again bool, err error)) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		again, err := do(ctx)
		if err == nil || !again {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// decodeManifest reads a YAML file of many objects.
func decodeManifest(text []byte) ([]runtime.Object, error) {
	var list []runtime.Object
	d := yaml.NewYAMLOrJSONDecoder(strings.NewReader(string(text)), 4096)
	for {
		u := &unstructured.Unstructured{}
		if err := d.Decode(u); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, fmt.Errorf("read a manifest: %w", err)
		}
		if len(u.Object) > 0 {
			list = append(list, u)
		}
	}
}

// pods are the pods of a namespace that a label selector names.
func (k *kube) pods(ctx context.Context, namespace, selector string) ([]corev1.Pod, error) {
	list, err := k.typed.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("list the pods %s in %s: %w", selector, namespace, err)
	}
	return list.Items, nil
}

// hopeless is how many restarts a container may need: some end when what they ask for is not there yet.
const hopeless = 3

// imagePatience is how long a pod may lack an image: a node puts keylab's into its store by itself, while kind starts its containerd anew beside that. A kubelet
// that was faster asks again after 10, 20 and 40 s.
const imagePatience = 2 * time.Minute

// crashed shows the last words of a container that does not stay up; nil when none is in that state.
func (k *kube) crashed(ctx context.Context, pod corev1.Pod) error {
	for _, s := range append(append([]corev1.ContainerStatus(nil), pod.Status.InitContainerStatuses...), pod.Status.ContainerStatuses...) {
		w := s.State.Waiting
		if w == nil {
			continue
		}
		switch w.Reason {
		case "CrashLoopBackOff", "RunContainerError":
			if s.RestartCount < hopeless {
				continue
			}
			return fleet.Hopeless(fmt.Errorf("container %s of pod %s/%s does not stay up (%s): %s\nthe end of its log:\n%s", s.Name, pod.Namespace, pod.Name, w.Reason, w.Message, indent(k.podLogTail(ctx, pod, s.Name))))
		case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName":
			if w.Reason != "InvalidImageName" && (pod.Status.StartTime == nil || time.Since(pod.Status.StartTime.Time) < imagePatience) {
				continue
			}
			return fleet.Hopeless(fmt.Errorf("container %s of pod %s/%s cannot start (%s): %s", s.Name, pod.Namespace, pod.Name, w.Reason, w.Message))
		}
	}
	return nil
}

func (k *kube) podLogTail(ctx context.Context, pod corev1.Pod, name string) string {
	lines := int64(15)
	text, err := k.typed.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: name, TailLines: &lines, Previous: true}).DoRaw(ctx)
	if err != nil || len(text) == 0 {
		if text, err = k.typed.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: name, TailLines: &lines}).DoRaw(ctx); err != nil {
			return err.Error()
		}
	}
	return string(text)
}

func podReady(p corev1.Pod) bool {
	if p.DeletionTimestamp != nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// podLink is a session with keylab in a pod's container: from inside that pod's network.
func (l *Lab) podLink(ctx context.Context, namespace, selector, container string) (*hostlink.Client, error) {
	k, err := l.cluster()
	if err != nil {
		return nil, err
	}
	pods, err := k.pods(ctx, namespace, selector)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if podReady(p) {
			return k.link(ctx, p, container)
		}
	}
	return nil, fmt.Errorf("no pod %s in %s is ready", selector, namespace)
}

// podProgram is where keylab is in its own image.
const podProgram = "/keylab"

func (k *kube) link(ctx context.Context, pod corev1.Pod, container string) (*hostlink.Client, error) {
	req := k.typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: []string{podProgram, "in-container", "link"}, Stdin: true, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	exec, err := remotecommand.NewWebSocketExecutor(k.config, "GET", req.URL().String())
	if err != nil {
		return nil, fmt.Errorf("reach into pod %s: %w", pod.Name, err)
	}
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stream := &podStream{Reader: outR, Writer: inW, close: func() {
		cancel()
		inW.Close()
		outR.Close()
	}}
	go func() {
		err := exec.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: inR, Stdout: outW, Stderr: &stream.stderr})
		if said := stream.stderr.String(); said != "" {
			err = errors.Join(err, errors.New(strings.TrimSpace(said)))
		}
		outW.CloseWithError(err)
		inR.CloseWithError(io.ErrClosedPipe)
	}()
	return hostlink.NewClient(stream)
}

type podStream struct {
	io.Reader
	io.Writer
	close  func()
	stderr tail
}

func (s *podStream) Close() error {
	s.close()
	return nil
}
