package kind

import (
	"context"
	"fmt"
	"io"
	"os"
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

// loadImages puts into every node the images that its own store lacks: keylab's, and those of agents.
func (l *Lab) loadImages(ctx context.Context, provider *cluster.Provider) error {
	all, err := provider.ListInternalNodes(l.planned.Kubernetes.Cluster)
	if err != nil {
		return fmt.Errorf("list the cluster's nodes: %w", err)
	}
	if err := loadArchive(ctx, all, func() (io.ReadCloser, error) { return os.Open(l.imageArchive) }); err != nil {
		return fmt.Errorf("load keylab's image into the nodes: %w", err)
	}
	var wanted []string
	wanted = append(wanted, l.images().InCluster...)
	for _, n := range l.planned.Nodes {
		if image := l.agentImage(n.Agent).Image; image != l.known().Image {
			wanted = append(wanted, image)
		}
	}
	for _, image := range unique(wanted) {
		err := loadArchive(ctx, all, func() (io.ReadCloser, error) { return l.docker.ImageSave(ctx, []string{image}) })
		if err != nil {
			return fmt.Errorf("load image %s into the nodes: %w", image, err)
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
				return fmt.Errorf("node %s: %w", n, err)
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
	return k.apply(ctx, manifests.System(objects))
}

// awaitNodes waits until every node is ready and every worker has TPMs to give.
func (l *Lab) awaitNodes(ctx context.Context) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	err = fleet.Await(ctx, "the cluster's nodes to be ready", func(ctx context.Context) (string, error) {
		list, err := k.typed.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return "", fmt.Errorf("list the nodes: %w", err)
		}
		var missing []string
		for _, n := range list.Items {
			if why := notReady(n); why != "" {
				missing = append(missing, n.Name+": "+why)
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
	if err != nil {
		return fmt.Errorf("%w\n%s", err, l.whyNoCluster(context.WithoutCancel(ctx)))
	}
	return nil
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
