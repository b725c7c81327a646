package kind

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/manifests"
)

const (
	// drainLimit is how long pods that are not the node's own may take to leave it. A lab does not wait longer for those whose PodDisruptionBudget forbids it.
	drainLimit = 20 * time.Second
	// drainGrace is how long each of them may take to end, once it was told to.
	drainGrace = 5 * time.Second
)

// drain moves the pods away that do not belong to the node, as those of a Deployment, so that others do their work before the node is gone. What does not leave in
// time ends with the node; and so do all pods of a node that is off.
func (l *Lab) drain(ctx context.Context, n plan.Node) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	_, err = k.typed.CoreV1().Nodes().Patch(ctx, n.KubernetesName, types.StrategicMergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("keep pods off node %s: %w", n.KubernetesName, err)
	}
	on, err := machines{l}.Running(ctx, n)
	if err != nil || !on {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	err = fleet.Await(limited, "the pods on "+n.Name+" to leave it", func(ctx context.Context) (string, error) { return k.evict(ctx, n.KubernetesName) })
	if err != nil && limited.Err() == nil {
		return err
	}
	return nil
}

// evict tells the pods that can run elsewhere to leave a node, and says which of them are still there.
func (k *kube) evict(ctx context.Context, node string) (left string, err error) {
	pods, err := k.podsOn(ctx, node)
	if err != nil {
		return "", err
	}
	grace := int64(drainGrace.Seconds())
	for _, p := range pods {
		if !movable(p) {
			continue
		}
		left += " " + p.Namespace + "/" + p.Name
		if p.DeletionTimestamp != nil {
			continue
		}
		err := k.typed.PolicyV1().Evictions(p.Namespace).Evict(ctx, &policyv1.Eviction{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}, DeleteOptions: &metav1.DeleteOptions{GracePeriodSeconds: &grace},
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsTooManyRequests(err) { // too many: its PodDisruptionBudget forbids it for now
			return "", fmt.Errorf("have pod %s/%s leave: %w", p.Namespace, p.Name, err)
		}
	}
	if left != "" {
		left = "there are" + left
	}
	return left, nil
}

// movable tells whether a pod does not belong to the very node that it is on: the kubelet's own and those of DaemonSets do, and one that has ended is nowhere.
func movable(p corev1.Pod) bool {
	if _, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]; mirror || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return false
	}
	owner := metav1.GetControllerOf(&p)
	return owner == nil || owner.Kind != "DaemonSet"
}

// podsOn are all pods on a node.
func (k *kube) podsOn(ctx context.Context, node string) ([]corev1.Pod, error) {
	list, err := k.typed.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String()})
	if err != nil {
		return nil, fmt.Errorf("list the pods on node %s: %w", node, err)
	}
	return list.Items, nil
}

// deleteNode has Kubernetes know nothing any more of a node whose container is gone, nor of pods on it, which it would else show for a minute.
func (l *Lab) deleteNode(ctx context.Context, n plan.Node) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	if err := k.typed.CoreV1().Nodes().Delete(ctx, n.KubernetesName, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete node %s: %w", n.KubernetesName, err)
	}
	pods, err := k.podsOn(ctx, n.KubernetesName)
	if err != nil {
		return err
	}
	now := int64(0)
	var errs []error
	for _, p := range pods {
		err := k.typed.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete pod %s/%s: %w", p.Namespace, p.Name, err))
		}
	}
	return errors.Join(errs...)
}

// withdrawAgents removes what there is in the cluster for agents of nodes that the lab's plan has no more, and what the agents of the others do not need.
func (l *Lab) withdrawAgents(ctx context.Context) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	objects, err := l.objects()
	if err != nil {
		return err
	}
	needed := manifests.Agents(objects)
	if err := k.apply(ctx, needed); err != nil {
		return err
	}
	return k.prune(ctx, needed, agentSelector+",keylab.lab="+l.planned.Lab, []schema.GroupVersionResource{
		appsv1.SchemeGroupVersion.WithResource("daemonsets"), networkingv1.SchemeGroupVersion.WithResource("ingresses"),
		corev1.SchemeGroupVersion.WithResource("services"), corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"),
		corev1.SchemeGroupVersion.WithResource("persistentvolumes"),
	})
}

// prune deletes the objects of some types that a label selector names and that are not among those that are needed.
func (k *kube) prune(ctx context.Context, needed []runtime.Object, selector string, types []schema.GroupVersionResource) error {
	keep := map[string]bool{}
	for _, o := range needed {
		u, err := untyped(o)
		if err != nil {
			return err
		}
		keep[u.GetKind()+" "+u.GetNamespace()+"/"+u.GetName()] = true
	}
	var errs []error
	for _, t := range types {
		list, err := k.dynamic.Resource(t).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			errs = append(errs, fmt.Errorf("list the %s that are %s: %w", t.Resource, selector, err))
			continue
		}
		for _, u := range list.Items {
			name := u.GetKind() + " " + u.GetNamespace() + "/" + u.GetName()
			if keep[name] || u.GetDeletionTimestamp() != nil {
				continue
			}
			err := k.dynamic.Resource(t).Namespace(u.GetNamespace()).Delete(ctx, u.GetName(), metav1.DeleteOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				errs = append(errs, fmt.Errorf("delete %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}
