package kind

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/manifests"
)

// applyLoadBalancer installs MetalLB and gives it the one address.
func (l *Lab) applyLoadBalancer(ctx context.Context) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	install, err := decodeManifest(l.images().MetalLBManifest)
	if err != nil {
		return err
	}
	m, err := l.objects()
	if err != nil {
		return err
	}
	own := m.IngressClass == spec.IngressKeylab
	api := l.known().Addresses[l.planned.Kubernetes.ControlPlane]
	for _, o := range install {
		if err := adapt(o, api, own); err != nil {
			return err
		}
	}
	secret, err := memberlistSecret()
	if err != nil {
		return err
	}
	// The first object is MetalLB's namespace. The secret comes before the pods that mount it: one that waits for it is tried again only after ever longer pauses.
	// The address is there for MetalLB when it starts.
	if err := k.apply(ctx, slices.Concat(install[:1], []runtime.Object{secret}, install[1:], manifests.LoadBalancer(m))); err != nil {
		return err
	}
	pods := 2
	if !own {
		pods += len(l.planned.Nodes) // a speaker on each
	}
	return l.awaitPods(ctx, "MetalLB", "metallb-system", "app=metallb", pods)
}

// memberlistSecret is the key by which MetalLB's speakers know one another. Its controller would make one, when it runs.
func memberlistSecret() (runtime.Object, error) {
	key := make([]byte, 64)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make a key for MetalLB's speakers: %w", err)
	}
	return &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}, ObjectMeta: metav1.ObjectMeta{Namespace: "metallb-system", Name: "memberlist"},
		Data: map[string][]byte{"secretkey": []byte(hex.EncodeToString(key))},
	}, nil
}

// adapt has MetalLB's pods ask the API server where it is, without waiting for kube-proxy, for want of which they would end and be started again ever
// later; and it makes their readiness known as soon as it is there: the manifest has the kubelet ask every ten seconds, from the tenth on. With keylab's
// own ingress they stand on the control plane, as that does: there the address is announced, whatever becomes of the workers. What MetalLB would refuse is
// refused once it runs; until then objects are taken unseen. The webhooks' certificates are there before it starts.
func adapt(o runtime.Object, api netip.Addr, controlPlane bool) error {
	u, ok := o.(*unstructured.Unstructured)
	if ok && u.GetKind() == "ValidatingWebhookConfiguration" {
		return eachMap(u, func(webhook map[string]any) { webhook["failurePolicy"] = "Ignore" }, "webhooks")
	}
	if ok && u.GetKind() == "Secret" && u.GetName() == webhookSecret {
		return certifyWebhooks(u)
	}
	if !ok || u.GetKind() != "Deployment" && u.GetKind() != "DaemonSet" {
		return nil
	}
	if controlPlane {
		if err := toControlPlane(u); err != nil {
			return err
		}
	}
	return eachContainer(u, func(container map[string]any) {
		env, _ := container["env"].([]any)
		container["env"] = append(env, map[string]any{"name": "KUBERNETES_SERVICE_HOST", "value": api.String()}, map[string]any{"name": "KUBERNETES_SERVICE_PORT", "value": "6443"})
		if probe, ok := container["readinessProbe"].(map[string]any); ok {
			probe["initialDelaySeconds"], probe["periodSeconds"] = int64(1), int64(1)
		}
		if u.GetKind() == "DaemonSet" && controlPlane {
			// kubeadm labels control planes node.kubernetes.io/exclude-from-external-load-balancers, which a speaker respects unless told otherwise.
			args, _ := container["args"].([]any)
			container["args"] = append(args, "--ignore-exclude-lb")
		}
	})
}

// toControlPlane has the pods of a Deployment or DaemonSet run on the control plane, and nowhere else.
func toControlPlane(u *unstructured.Unstructured) error {
	err := unstructured.SetNestedField(u.Object, "", "spec", "template", "spec", "nodeSelector", manifests.LabelControlPlane)
	if err != nil {
		return fmt.Errorf("change MetalLB's manifest: %w", err)
	}
	tolerations := []any{map[string]any{"key": manifests.LabelControlPlane, "operator": "Exists", "effect": "NoSchedule"}}
	return unstructured.SetNestedSlice(u.Object, tolerations, "spec", "template", "spec", "tolerations")
}

// eachContainer changes all containers of a Deployment's or DaemonSet's pods.
func eachContainer(u *unstructured.Unstructured, change func(container map[string]any)) error {
	return eachMap(u, change, "spec", "template", "spec", "containers")
}

// eachMap changes all that is in a list of an object.
func eachMap(u *unstructured.Unstructured, change func(map[string]any), path ...string) error {
	list, _, err := unstructured.NestedSlice(u.Object, path...)
	if err != nil {
		return fmt.Errorf("read MetalLB's manifest: %w", err)
	}
	for _, x := range list {
		if m, ok := x.(map[string]any); ok {
			change(m)
		}
	}
	return unstructured.SetNestedSlice(u.Object, list, path...)
}
