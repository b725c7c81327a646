package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/docker/api/types/container"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// storageManifest is what kind applies as the default storage: a class, which it wants to be there, for volumes that are made by hand.
const storageManifest = `apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: standard
  annotations:
    storageclass.kubernetes.io/is-default-class: "true"
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
`

// nodePrograms are where the node has its programs: kubelet and its like where kind's unit files look for them.
func nodePrograms() map[string]map[string]string {
	return map[string]map[string]string{
		"kubernetes":  {"/usr/bin/kubeadm": "kubeadm", "/usr/bin/kubelet": "kubelet", "/usr/bin/kubectl": "kubectl"},
		"containerd":  {"/usr/local/bin/containerd": "containerd", "/usr/local/bin/ctr": "ctr", "/usr/local/bin/containerd-shim-runc-v2": "containerd-shim-runc-v2"},
		"cni-plugins": {"/opt/cni/bin/ptp": "ptp", "/opt/cni/bin/loopback": "loopback", "/opt/cni/bin/host-local": "host-local", "/opt/cni/bin/portmap": "portmap"},
	}
}

// nodeBase is the node image without the cluster's images: Debian with systemd, kind's files, and the programs.
func (l local) nodeBase() artifact {
	base := debian(debianRoots()["node"])
	inputs := []string{base.key(), fmt.Sprint(nodePrograms())}
	for _, name := range sortedKeys(nodePrograms()) {
		inputs = append(inputs, programs(recipeNamed(name)).key())
	}
	a := artifact{name: "image-node-base", version: DefaultKubernetes, inputs: inputs}
	a.build = func(ctx context.Context, dir string, m *manifest) error {
		files := map[string]string{}
		contents := map[string]string{}
		for name, programsOf := range nodePrograms() {
			recipe := programs(recipeNamed(name))
			from, err := l.ensure(ctx, recipe)
			if err != nil {
				return err
			}
			if in, ok := l.manifest(recipe); ok {
				for k, v := range in.Contents {
					contents[k] = v
				}
			}
			for to, program := range programsOf {
				files[to] = filepath.Join(from, program)
			}
		}
		config := v1.Config{Entrypoint: []string{"/usr/local/bin/entrypoint", "/sbin/init"}, Env: []string{"container=docker"}, StopSignal: "SIGRTMIN+3"}
		if err := l.overRoot(ctx, dir, m, base, nil, reference(a), config, files); err != nil {
			return err
		}
		for k, v := range contents {
			m.Contents[k] = v
		}
		return nil
	}
	return a
}

// node is kind's node image: nodeBase with the cluster's images in containerd's own store. Putting them there needs that containerd, so this is the one
// image which Docker itself makes; the artifact in the cache only describes it.
func (l local) node() artifact {
	base := l.nodeBase()
	inputs := []string{base.key(), storageManifest, importScript, fmt.Sprint("zstd ", zstdLevel)}
	for _, ref := range sortedKeys(l.clusterImages()) {
		inputs = append(inputs, ref, l.clusterImages()[ref].key())
	}
	a := artifact{name: "image-node", version: DefaultKubernetes, inputs: inputs}
	a.build = func(ctx context.Context, dir string, m *manifest) error {
		archives := map[string]string{}
		for ref, image := range l.clusterImages() {
			from, err := l.ensure(ctx, image)
			if err != nil {
				return err
			}
			archives[ref] = filepath.Join(from, imageFile)
			m.Contents["image "+ref] = image.key()
		}
		if _, err := l.ensure(ctx, base); err != nil {
			return err
		}
		if in, ok := l.manifest(base); ok {
			for k, v := range in.Contents {
				m.Contents[k] = v
			}
		}
		if err := l.load(ctx, base); err != nil {
			return err
		}
		all := filepath.Join(dir, "images.tar")
		if err := bundle(all, archives); err != nil {
			return err
		}
		defer os.Remove(all)
		size, err := l.commitNode(ctx, reference(base), all, reference(a))
		m.Size = size
		return err
	}
	return a
}

// importScript runs in a container of nodeBase: it fills containerd's store from /mnt/images.tar, and writes what kind looks for. kind gives every node a volume
// at /var, into which Docker copies all that the image has there: the images' layers, which are large and only read, are therefore kept elsewhere.
const importScript = `set -e
containerd >/tmp/containerd.log 2>&1 &
pid=$!
tries=0
until ctr version >/dev/null 2>&1; do
  tries=$((tries + 1))
  if [ $tries -gt 300 ] || ! kill -0 $pid; then cat /tmp/containerd.log; exit 1; fi
  sleep 0.1
done
ctr --namespace=k8s.io images import --label=io.cri-containerd.pinned=pinned --no-unpack --digests /mnt/images.tar
ctr oci spec | jq '.hooks.createContainer[.hooks.createContainer| length] |= . + {"path": "/kind/bin/mount-product-files.sh"} | del(.process.rlimits)' >/etc/containerd/cri-base.json
kill $pid
wait $pid || :
rm -rf /tmp/containerd.log /run/containerd
content=/var/lib/containerd/io.containerd.content.v1.content
mkdir -p /kind/containerd
mv $content /kind/containerd/content
ln -s /kind/containerd/content $content
`

// commitNode makes the node image in a container, and returns its size in bytes.
func (l local) commitNode(ctx context.Context, base, archive, ref string) (int64, error) {
	docker := l.o.Docker
	made, err := docker.ContainerCreate(ctx, &container.Config{
		Image: base, Entrypoint: []string{"sh", "-c", importScript}, // no labels: the image, and so every node, would have them too
	}, &container.HostConfig{Privileged: true, NetworkMode: "none", Binds: []string{filepath.Dir(archive) + ":/mnt:ro"}}, nil, nil, "")
	if err != nil {
		return 0, fmt.Errorf("make the container in which the node image is built: %w", err)
	}
	defer func() {
		_ = docker.ContainerRemove(context.WithoutCancel(ctx), made.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
	}()
	for path, text := range map[string]string{"/kind/version": DefaultKubernetes, "/kind/manifests/default-cni.yaml": "# keylab applies its own.\n", "/kind/manifests/default-storage.yaml": storageManifest} {
		if err := putFile(ctx, docker, made.ID, path, []byte(text)); err != nil {
			return 0, fmt.Errorf("write %s into the node image: %w", path, err)
		}
	}
	if err := runContainer(ctx, docker, made.ID); err != nil {
		return 0, fmt.Errorf("put the cluster's images into the node image: %w", err)
	}
	_, err = docker.ContainerCommit(ctx, made.ID, container.CommitOptions{
		Reference: ref, Config: &container.Config{Entrypoint: []string{"/usr/local/bin/entrypoint", "/sbin/init"}, Env: []string{"container=docker", "PATH=" + defaultPath}, StopSignal: "SIGRTMIN+3"},
	})
	if err != nil {
		return 0, fmt.Errorf("commit the node image: %w", err)
	}
	info, err := docker.ImageInspect(ctx, ref)
	if err != nil {
		return 0, fmt.Errorf("look at the node image: %w", err)
	}
	return info.Size, nil
}

// pinnedKubernetes refuses versions that local builds have no recipe for.
func pinnedKubernetes(version string) error {
	if version != "" && version != DefaultKubernetes {
		return fmt.Errorf("images are built here for Kubernetes %s only, not for %s: take that version, or images.source: registry", DefaultKubernetes, strings.TrimSpace(version))
	}
	return nil
}
