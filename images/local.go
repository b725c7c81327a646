package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const goarch = runtime.GOARCH

// localPrefix names what was built here: nobody has a registry under .test (RFC 2606).
const localPrefix = "keylab.test/"

// local is a build of all images on this machine.
type local struct {
	*store
	o Options
}

// programImage is an image that holds Go programs and nothing else.
func (l local) programImage(name string, from artifact, reference string, entrypoint []string, files map[string]string) artifact {
	return artifact{
		name: name, version: from.version, inputs: []string{from.key(), reference, fmt.Sprint(entrypoint, files)},
		build: func(ctx context.Context, dir string, m *manifest) error {
			source, err := l.ensure(ctx, from)
			if err != nil {
				return err
			}
			m.Inputs = []string{from.name + " " + from.key()}
			paths := map[string]string{}
			for to, program := range files {
				paths[to] = filepath.Join(source, program)
			}
			layer, err := programLayer(paths)
			if err != nil {
				return err
			}
			return writeImage(dir, reference, v1.Config{Entrypoint: entrypoint, Env: []string{"PATH=" + defaultPath}}, layer)
		},
	}
}

// clusterImages are those that the cluster needs, by the names under which it asks for them.
func (l local) clusterImages() map[string]artifact {
	kube := programs(recipeNamed("kubernetes"))
	out := map[string]artifact{}
	for _, p := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		ref := "registry.k8s.io/" + p + ":" + DefaultKubernetes
		out[ref] = l.programImage("image-"+p, kube, ref, []string{"/usr/local/bin/" + p}, map[string]string{"/usr/local/bin/" + p: p})
	}
	// kube-proxy runs iptables, which is in the node's own root.
	proxy := "registry.k8s.io/kube-proxy:" + DefaultKubernetes
	out[proxy] = l.kubeProxy(kube, proxy)
	etcd := "registry.k8s.io/etcd:" + strings.TrimPrefix(etcdVersion, "v") + "-0"
	out[etcd] = l.programImage("image-etcd", programs(recipeNamed("etcd")), etcd, []string{"/usr/local/bin/etcd"}, map[string]string{"/usr/local/bin/etcd": "etcd"})
	dns := "registry.k8s.io/coredns/coredns:" + coreDNSVersion
	out[dns] = l.programImage("image-coredns", programs(recipeNamed("coredns")), dns, []string{"/coredns"}, map[string]string{"/coredns": "coredns"})
	hold := "registry.k8s.io/pause:" + pauseVersion
	out[hold] = l.programImage("image-pause", pause(), hold, []string{"/pause"}, map[string]string{"/pause": "pause"})
	for _, p := range []string{"controller", "speaker"} {
		ref := localPrefix + "metallb-" + p + ":" + metalLBVersion
		out[ref] = l.programImage("image-metallb-"+p, programs(recipeNamed("metallb")), ref, []string{"/" + p}, map[string]string{"/" + p: p})
	}
	for _, a := range []artifact{l.tools(), l.proxy()} {
		out[reference(a)] = a
	}
	return out
}

func recipeNamed(name string) recipe {
	for _, r := range programRecipes() {
		if r.name == name {
			return r
		}
	}
	return recipe{name: name}
}

// reference is the name of a local image that is made from a root: its tag is its key, so that Docker never has an old one under it.
func reference(a artifact) string {
	return localPrefix + strings.TrimPrefix(a.name, "image-") + ":" + a.version + "-" + a.key()
}

// kubeProxyTools are what kube-proxy runs, and the extensions of iptables, which are libraries that no program is linked with.
var kubeProxyTools = []string{
	"usr/sbin/iptables", "usr/sbin/iptables-save", "usr/sbin/iptables-restore", "usr/sbin/ip6tables", "usr/sbin/ip6tables-save", "usr/sbin/ip6tables-restore",
	"usr/lib/*/xtables/", "usr/sbin/conntrack", "usr/sbin/modprobe", "usr/sbin/nft",
}

// kubeProxy is the one program of Kubernetes that needs others beside it.
func (l local) kubeProxy(kube artifact, ref string) artifact {
	base := debian(root{name: "root-kube-proxy", packages: []string{"conntrack", "iptables", "kmod", "nftables"}})
	return artifact{
		name: "image-kube-proxy", version: DefaultKubernetes, inputs: append([]string{kube.key(), base.key(), slimVersion}, kubeProxyTools...),
		build: func(ctx context.Context, dir string, m *manifest) error {
			programs, err := l.ensure(ctx, kube)
			if err != nil {
				return err
			}
			return l.overRoot(ctx, dir, m, base, kubeProxyTools, ref, v1.Config{Entrypoint: []string{"/usr/local/bin/kube-proxy"}},
				map[string]string{"/usr/local/bin/kube-proxy": filepath.Join(programs, "kube-proxy")})
		},
	}
}

// proxy is HAProxy alone, for the cluster's nodes.
func (l local) proxy() artifact {
	base, programs := debian(debianRoots()["tools"]), []string{"usr/sbin/haproxy"}
	a := artifact{name: "image-haproxy", version: suite, inputs: append([]string{base.key(), slimVersion}, programs...)}
	a.build = func(ctx context.Context, dir string, m *manifest) error {
		return l.overRoot(ctx, dir, m, base, programs, reference(a), v1.Config{Entrypoint: []string{"/usr/sbin/haproxy"}}, nil)
	}
	return a
}

// overRoot writes an image of a root, or of some programs of it, with programs over it.
func (l local) overRoot(ctx context.Context, dir string, m *manifest, base artifact, only []string, ref string, config v1.Config, files map[string]string) error {
	from, err := l.ensure(ctx, base)
	if err != nil {
		return err
	}
	archive := filepath.Join(from, "root.tar")
	if len(only) > 0 {
		small := filepath.Join(dir, "slim.tar")
		defer os.Remove(small)
		if err := slim(archive, small, only); err != nil {
			return err
		}
		archive = small
	}
	if in, ok := l.manifest(base); ok {
		m.Contents = in.Contents
	}
	m.Inputs = []string{base.name + " " + base.key()}
	layer, err := layerOf(archive)
	if err != nil {
		return err
	}
	layers := []v1.Layer{layer}
	if len(files) > 0 {
		layer, err := programLayer(files)
		if err != nil {
			return err
		}
		layers = append(layers, layer)
	}
	config.Env = append(config.Env, "PATH="+defaultPath)
	return writeImage(dir, ref, config, layers...)
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// tools is the image with what the lab's own containers run: swtpm, HAProxy, tpm2-tools.
func (l local) tools() artifact {
	base := debian(debianRoots()["tools"])
	a := artifact{name: "image-tools", version: suite, inputs: []string{base.key()}}
	a.build = func(ctx context.Context, dir string, m *manifest) error {
		return l.overRoot(ctx, dir, m, base, nil, reference(a), v1.Config{Cmd: []string{"/bin/sh"}}, nil)
	}
	return a
}
