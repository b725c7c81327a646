package kind

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/manifests"
	"keylab.dev/keylab/netlab"
)

// nobody is a label's value that no pod has: no node may be called so.
const nobody = "nobody_x"

// forgetName makes a node's Service select no pod, so that the ingress has nowhere to lead its name to, and refuses it.
func (l *Lab) forgetName(ctx context.Context, f fault) error {
	n := f.On[0]
	if err := l.patchSelector(ctx, n, nobody); err != nil {
		return err
	}
	host := l.node(n.Name).Hostname
	return fleet.Await(ctx, "the ingress to forget "+host, func(ctx context.Context) (string, error) {
		routes := map[string]string{}
		if err := l.askIngress(ctx, "/routes", &routes); err != nil {
			return "", err
		}
		if to, ok := routes[host]; ok {
			return "it leads to " + to, nil
		}
		return "", nil
	})
}

func (l *Lab) knowName(ctx context.Context, f fault) error {
	if err := l.selectNode(ctx, f.On[0], f.On[0]); err != nil {
		return err
	}
	return l.askAgain(ctx, f, f.On)
}

func (l *Lab) ingressDown(ctx context.Context, _ fault) error {
	if err := l.scaleIngress(ctx, 0); err != nil {
		return err
	}
	l.closeLink(plan.Ingress)
	return fleet.Await(ctx, "the ingress to end", func(ctx context.Context) (string, error) {
		k, err := l.cluster()
		if err != nil {
			return "", err
		}
		pods, err := k.pods(ctx, l.planned.Kubernetes.SystemNamespace, ingressSelector)
		if err != nil {
			return "", err
		}
		if len(pods) > 0 {
			return "pod " + pods[0].Name + " is still there", nil
		}
		return "", nil
	})
}

func (l *Lab) ingressUp(ctx context.Context, f fault) error {
	if err := l.startIngress(ctx); err != nil {
		return err
	}
	return l.askAgain(ctx, f, l.planned.Nodes)
}

func (l *Lab) ingressRestart(ctx context.Context, f fault) error {
	if err := l.ingressDown(ctx, f); err != nil {
		return err
	}
	return l.startIngress(ctx)
}

// startIngress waits until the new ingress leads each node's name to its agent, as far as that is well.
func (l *Lab) startIngress(ctx context.Context) error {
	if err := l.scaleIngress(ctx, 1); err != nil {
		return err
	}
	l.closeLink(plan.Ingress)
	if err := l.awaitPods(ctx, "the ingress", l.planned.Kubernetes.SystemNamespace, ingressSelector, 1); err != nil {
		return err
	}
	faults, err := l.nodeFaults(ctx)
	if err != nil {
		return err
	}
	for _, n := range l.planned.Nodes {
		if faults[n.Name] != nil {
			continue
		}
		if err := l.awaitRoute(ctx, n, n); err != nil {
			return err
		}
	}
	return l.awaitIngress(ctx)
}

func (l *Lab) scaleIngress(ctx context.Context, replicas int) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas)
	_, err = k.typed.AppsV1().Deployments(l.planned.Kubernetes.SystemNamespace).Patch(ctx, manifests.AppIngress, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("scale the ingress to %d: %w", replicas, err)
	}
	return nil
}

func (l *Lab) failDNS(ctx context.Context, f fault) error {
	return l.dns(plan.DNS).SetFailure(ctx, netlab.DNSFailure(f.Option("answer")))
}

func (l *Lab) mendDNS(ctx context.Context, f fault) error {
	if err := l.dns(plan.DNS).SetFailure(ctx, netlab.DNSWell); err != nil {
		return err
	}
	return l.askAgain(ctx, f, l.planned.Nodes)
}
