package kind

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/cluster/nodes"
	"sigs.k8s.io/kind/pkg/cluster/nodeutils"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/manifests"
)

// loadImages puts into every node the images that its own store lacks: keylab's, and those of agents. It begins while kind still makes the cluster,
// as soon as kubeadm runs: until then kind restarts the nodes' containerd.
func (l *Lab) loadImages(ctx context.Context, provider *cluster.Provider) error {
	type image struct {
		name string
		open func() (io.ReadCloser, error)
	}
	images := []image{{l.known().Image, func() (io.ReadCloser, error) { return os.Open(l.imageArchive) }}}
	wanted := slices.Clone(l.images().InCluster)
	for _, n := range l.planned.Nodes {
		if name := l.agentImage(n.Agent).Image; name != l.known().Image {
			wanted = append(wanted, name)
		}
	}
	for _, name := range unique(wanted) {
		images = append(images, image{name, func() (io.ReadCloser, error) { return l.docker.ImageSave(ctx, []string{name}) }})
	}
	if err := l.awaitKubeadm(ctx); err != nil {
		return err
	}
	all, err := provider.ListInternalNodes(l.planned.Kubernetes.Cluster)
	if err != nil {
		return fmt.Errorf("list the cluster's nodes: %w", err)
	}
	for _, image := range images {
		if err := loadArchive(ctx, all, image.open); err != nil {
			return fmt.Errorf("load image %s into the nodes: %w", image.name, err)
		}
	}
	return nil
}

// awaitKubeadm waits until kubeadm makes the control plane: by then every node is there and configured, though its containerd may still be starting.
func (l *Lab) awaitKubeadm(ctx context.Context) error {
	answers := func(node string, argv ...string) error {
		return fleet.Await(ctx, strings.Join(argv, " ")+" on "+node, func(ctx context.Context) (string, error) {
			_, err := l.execOutput(ctx, node, argv...)
			return "", err
		})
	}
	if err := answers(l.planned.Kubernetes.ControlPlane, "pgrep", "--exact", "kubeadm"); err != nil {
		return err
	}
	for _, n := range append(l.workers(), l.planned.Kubernetes.ControlPlane) {
		if err := answers(n, "ctr", "version"); err != nil {
			return err
		}
	}
	return nil
}

// loadArchive loads one image into all nodes, two at a time: each unpacks it, which costs processor time.
func loadArchive(ctx context.Context, all []nodes.Node, open func() (io.ReadCloser, error)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for _, n := range all {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			r, err := open()
			if err != nil {
				return err
			}
			defer r.Close()
			if err := nodeutils.LoadImageArchive(n, r); err != nil {
				return fmt.Errorf("node %s: %w", n, withOutput(err))
			}
			return nil
		})
	}
	return group.Wait()
}

func unique(list []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

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
	return k.apply(ctx, append(manifests.AgentVolume(objects), manifests.System(objects)...))
}

// awaitNodes waits until every node is ready and every worker has TPMs to give.
func (l *Lab) awaitNodes(ctx context.Context) error {
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
		for _, n := range list.Items {
			if why := notReady(n); why != "" {
				missing, unready = append(missing, n.Name+": "+why), append(unready, n.Name)
			}
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
