package kind

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/cluster/nodes"
	"sigs.k8s.io/kind/pkg/cluster/nodeutils"

	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
)

// loadImages puts into every node the images, beside keylab's own, that its store lacks: of a node image from a registry, and of agents.
func (l *Lab) loadImages(ctx context.Context, provider *cluster.Provider) error {
	all, err := provider.ListInternalNodes(l.planned.Kubernetes.Cluster)
	if err != nil {
		return fmt.Errorf("list the cluster's nodes: %w", err)
	}
	return l.loadInto(ctx, all, l.planned.Nodes...)
}

// loadInto puts into nodes of the cluster the images that their stores lack for the agents of the lab's nodes, and for the cluster itself.
func (l *Lab) loadInto(ctx context.Context, into []nodes.Node, agents ...plan.Node) error {
	if err := l.loadScriptImage(ctx, into); err != nil {
		return err
	}
	wanted := append([]string(nil), l.images().InCluster...)
	for _, n := range agents {
		if n.Agent.Kind != string(spec.AgentGo) {
			wanted = append(wanted, l.agentImage(n).Image)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	archive := filepath.Join(l.dir.Path, "containers", "images.tar")
	if err := l.saveImages(ctx, archive, unique(wanted)...); err != nil {
		return err
	}
	defer os.Remove(archive)
	return loadArchive(ctx, into, archive)
}

// saveImages writes images of Docker's into one archive, in which layers that they share stand once.
func (l *Lab) saveImages(ctx context.Context, archive string, images ...string) error {
	saved, err := l.docker.ImageSave(ctx, images)
	if err != nil {
		return fmt.Errorf("save image %s: %w", strings.Join(images, ", "), err)
	}
	defer saved.Close()
	return writeFile(archive, 0o600, func(w io.Writer) error {
		if _, err := io.Copy(w, saved); err != nil {
			return fmt.Errorf("save image %s: %w", strings.Join(images, ", "), err)
		}
		return nil
	})
}

// loadArchive loads the images of an archive into all nodes, two at a time: each unpacks them, which costs processor time.
func loadArchive(ctx context.Context, all []nodes.Node, archive string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for _, n := range all {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			f, err := os.Open(archive)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := nodeutils.LoadImageArchive(n, f); err != nil {
				return fmt.Errorf("load images into node %s: %w", n, withOutput(err))
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
