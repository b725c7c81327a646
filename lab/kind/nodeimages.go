package kind

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	"sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/cluster/nodes"
	"sigs.k8s.io/kind/pkg/cluster/nodeutils"

	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
)

// unitImages is the service of a node that puts keylab's own image into its store.
const unitImages = "keylab-images"

// nodeImage is where a node finds the archive of keylab's own image.
const nodeImage = "/var/lib/keylab/image.tar"

// imagesUnit is that service. A node does it by itself, as soon as its containerd runs, while kind is still busy; the kubelet waits for it, which would otherwise
// look for an image that is not there, and again only after ten seconds. kind restarts containerd once, and this with it.
const imagesUnit = `[Unit]
Description=keylab's own image for the node's pods
After=containerd.service
PartOf=containerd.service
Before=kubelet.service
ConditionPathExists=!/var/lib/keylab/image.imported
StartLimitIntervalSec=0

[Service]
Type=oneshot
RemainAfterExit=yes
Restart=on-failure
RestartSec=500ms
ExecStart=/bin/sh -c 'exec ctr --namespace=k8s.io images import --all-platforms --digests --snapshotter="$$(sed -n "s/^ *snapshotter = //p" /etc/containerd/config.toml | head -n1 | tr -cd a-z-)" ` + nodeImage + `'
ExecStartPost=/bin/touch /var/lib/keylab/image.imported
`

// imagesDropIn has containerd bring it along.
const imagesDropIn = "[Unit]\nWants=" + unitImages + ".service\n"

// nodeMounts is what every node sees of this machine: keylab, its image, and the service that loads that.
func (l *Lab) nodeMounts() ([]v1alpha4.Mount, error) {
	mounts := []v1alpha4.Mount{
		{HostPath: l.program, ContainerPath: keylabPath, Readonly: true},
		{HostPath: l.imageArchive, ContainerPath: nodeImage, Readonly: true},
	}
	dir := filepath.Join(l.dir.Path, "containers")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of what the nodes see: %w", err)
	}
	for _, f := range []struct{ in, name, text string }{
		{"/etc/systemd/system", unitImages + ".service", imagesUnit},
		{"/etc/systemd/system/containerd.service.d", unitImages + ".conf", imagesDropIn},
	} {
		from := filepath.Join(dir, f.name)
		if err := atomicfile.Write(from, []byte(f.text), 0o644); err != nil {
			return nil, err
		}
		mounts = append(mounts, v1alpha4.Mount{HostPath: from, ContainerPath: f.in + "/" + f.name, Readonly: true})
	}
	return mounts, nil
}

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
