package kind

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/manifests"
)

// refusedRegistration is what the agent of a pod said when the registrar would not have it, and it ended; "" where that is not so.
func refusedRegistration(pod corev1.Pod) string {
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name != manifests.ContainerAgent {
			continue
		}
		for _, end := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
			if end != nil && end.ExitCode != 0 {
				return fleet.RefusedRegistration(end.Message)
			}
		}
	}
	return ""
}

// activated tells whether the agent of a pod that is ready has registered since it was started. One that listens does so last; of one that does not listen,
// Kubernetes knows only that it runs, and the log says it.
func (l *Lab) activated(ctx context.Context, pod corev1.Pod, uuid string) error {
	if !l.planned.Keylime.Push() {
		return nil
	}
	k, err := l.cluster()
	if err != nil {
		return err
	}
	log, err := k.typed.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: manifests.ContainerAgent}).DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("read the log of pod %s: %w", pod.Name, err)
	}
	if err := fleet.Activated(bytes.NewReader(log), uuid); err != nil {
		if errors.Is(err, fleet.ErrForbidden) {
			err = fleet.Hopeless(fmt.Errorf("%w: %w", fleet.ErrNotRegistered, err))
		}
		return err
	}
	return nil
}

// expelAgent keeps Kubernetes from starting an agent again and again that cannot register: its node is marked as one that has none, and its pod is deleted.
func (l *Lab) expelAgent(ctx context.Context, n plan.Node, why error) error {
	if err := l.markNode(ctx, n, `"unregistered"`); err != nil {
		return err
	}
	if err := l.deleteAgentPod(ctx, n); err != nil {
		return err
	}
	return l.learnNode(n.Name, func(f *nodeFacts) { f.Unregistered = why.Error() })
}

// admitAgent has Kubernetes start the agent of a node again whose agent could not register.
func (l *Lab) admitAgent(ctx context.Context, n plan.Node) error {
	if l.node(n.Name).Unregistered == "" {
		return nil
	}
	return l.markNode(ctx, n, "null")
}

// markNode sets the label of nodes that are to have no agent to a JSON value; null takes it away.
func (l *Lab) markNode(ctx context.Context, n plan.Node, value string) error {
	return l.labelNode(ctx, n, manifests.LabelNoAgent, value)
}

// labelNode sets a node's label to a JSON value; null takes it away.
func (l *Lab) labelNode(ctx context.Context, n plan.Node, label, value string) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, label, value)
	if _, err := k.typed.CoreV1().Nodes().Patch(ctx, n.KubernetesName, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("label node %s: %w", n.KubernetesName, err)
	}
	return nil
}
