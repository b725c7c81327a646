package kind

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/manifests"
)

// applySystem applies what every node needs: the pods' network, where the node image brings none, and the TPM device plugin.
func (l *Lab) applySystem(ctx context.Context) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	objects, err := l.objects()
	if err != nil {
		return err
	}
	// The agents' volume takes Kubernetes up to 15 s to bind, so it comes first.
	if err := k.apply(ctx, append(manifests.AgentVolume(objects), manifests.System(objects)...)); err != nil {
		return err
	}
	return k.oneDNS(ctx)
}

// oneDNS leaves one of the two DNS servers that kubeadm gives a cluster, before they start: a second one on the same control plane serves nobody, and it starts
// beside all else that starts there.
func (k *kube) oneDNS(ctx context.Context) error {
	one := []byte(`{"spec":{"replicas":1}}`)
	return fleet.Await(ctx, "kubeadm to give the cluster its DNS server", func(ctx context.Context) (string, error) {
		_, err := k.typed.AppsV1().Deployments(metav1.NamespaceSystem).Patch(ctx, "coredns", types.MergePatchType, one, metav1.PatchOptions{FieldManager: fieldManager})
		return "", err
	})
}

// awaitNodes waits until every node is ready and every worker has TPMs to give.
func (l *Lab) awaitNodes(ctx context.Context) error { return l.awaitReady(ctx) }

// awaitReady waits until certain nodes, by Kubernetes' names of them, are ready; none named: all that there are.
func (l *Lab) awaitReady(ctx context.Context, names ...string) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	var unready []string
	err = fleet.Await(ctx, "the cluster's nodes to be ready", func(ctx context.Context) (string, error) {
		list, err := k.typed.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return "", fmt.Errorf("list the nodes: %w", err)
		}
		var missing []string
		unready = nil
		found := 0
		for _, n := range list.Items {
			if len(names) > 0 && !slices.Contains(names, n.Name) {
				continue
			}
			found++
			if why := notReady(n); why != "" {
				missing, unready = append(missing, n.Name+": "+why), append(unready, n.Name)
			}
		}
		if found < len(names) {
			missing = append(missing, fmt.Sprintf("%d of %d have not joined the cluster", len(names)-found, len(names)))
		}
		pods, err := k.pods(ctx, l.planned.Kubernetes.SystemNamespace, "")
		if err != nil {
			return "", err
		}
		for _, p := range pods {
			if err := k.crashed(ctx, p); err != nil {
				return "", err
			}
		}
		return strings.Join(missing, "; "), nil
	})
	if err != nil && (ctx.Err() == nil || errors.As(context.Cause(ctx), new(*lateError))) {
		err = fmt.Errorf("%w\n%s", err, l.whyNoCluster(context.WithoutCancel(ctx), unready...))
	}
	return err
}

func notReady(n corev1.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return ""
		} else if c.Type == corev1.NodeReady {
			return c.Message
		}
	}
	return "it has not said anything yet"
}

// heartbeat is when a node's kubelet last told its status, by its own clock; to the second.
func (k *kube) heartbeat(ctx context.Context, node string) (time.Time, error) {
	n, err := k.typed.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return time.Time{}, fmt.Errorf("ask when node %s last told its status: %w", node, err)
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.LastHeartbeatTime.Time, nil
		}
	}
	return time.Time{}, nil
}

// awaitHeartbeat waits until a node has told its status once more.
func (k *kube) awaitHeartbeat(ctx context.Context, node string, before time.Time) error {
	return fleet.Await(ctx, "node "+node+" to tell Kubernetes its status", func(ctx context.Context) (string, error) {
		now, err := k.heartbeat(ctx, node)
		if err == nil && now.Equal(before) {
			return "nothing since " + before.Format(time.TimeOnly), nil
		}
		return "", err
	})
}
