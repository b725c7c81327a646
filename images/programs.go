package images

import (
	"context"
	"debug/buildinfo"
	"embed"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// recipes are modules of their own that pin the programs' whole dependency trees; a go.mod by its own name could not be embedded.
//
//go:embed recipes/*.mod recipes/*.sum recipes/pause.go.txt
var recipes embed.FS

// Versions of what a local node image is made of. Those of etcd, CoreDNS and pause are the ones which kubeadm of Kubernetes 1.34 asks for.
const (
	DefaultKubernetes = "v1.34.3"
	containerdVersion = "v2.1.4"
	cniVersion        = "v1.7.1"
	etcdVersion       = "v3.6.5"
	coreDNSVersion    = "v1.12.1"
	pauseVersion      = "3.10"
	metalLBVersion    = "v0.15.2"
)

// recipe is a set of Go programs out of one module.
type recipe struct {
	name     string            // of the artifact and of the files in recipes/
	version  string            // for people
	tags     string            // build tags
	ldflags  string            // beside -s -w
	packages map[string]string // program to import path
}

func programRecipes() []recipe {
	const kube, containerd, cni = "k8s.io/kubernetes/cmd/", "github.com/containerd/containerd/v2/", "github.com/containernetworking/plugins/plugins/"
	kubePackages := map[string]string{}
	for _, p := range []string{"kubeadm", "kubelet", "kubectl", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"} {
		kubePackages[p] = kube + p
	}
	return []recipe{
		{name: "kubernetes", version: DefaultKubernetes, ldflags: kubernetesVersionFlags(DefaultKubernetes), packages: kubePackages},
		{name: "containerd", version: containerdVersion, tags: "no_btrfs,no_zfs,no_aufs,no_devmapper",
			ldflags: "-X " + containerd + "version.Version=" + containerdVersion,
			packages: map[string]string{"containerd": containerd + "cmd/containerd", "ctr": containerd + "cmd/ctr",
				"containerd-shim-runc-v2": containerd + "cmd/containerd-shim-runc-v2"}},
		{name: "cni-plugins", version: cniVersion, packages: map[string]string{
			"ptp": cni + "main/ptp", "loopback": cni + "main/loopback", "host-local": cni + "ipam/host-local", "portmap": cni + "meta/portmap"}},
		{name: "etcd", version: etcdVersion, packages: map[string]string{"etcd": "go.etcd.io/etcd/server/v3"}},
		{name: "coredns", version: coreDNSVersion, packages: map[string]string{"coredns": "github.com/coredns/coredns"}},
		{name: "metallb", version: metalLBVersion, packages: map[string]string{
			"controller": "go.universe.tf/metallb/controller", "speaker": "go.universe.tf/metallb/speaker"}},
	}
}

// kubernetesVersionFlags stamp the version, which the programs compare with one another.
func kubernetesVersionFlags(version string) string {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	var flags []string
	for _, p := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for name, value := range map[string]string{"gitVersion": version, "gitMajor": parts[0], "gitMinor": parts[1], "gitTreeState": "clean"} {
			flags = append(flags, fmt.Sprintf("-X %s.%s=%s", p, name, value))
		}
	}
	slices.Sort(flags)
	return strings.Join(flags, " ")
}

// programs is the artifact of one recipe.
func programs(r recipe) artifact {
	mod, _ := recipes.ReadFile("recipes/" + r.name + ".mod")
	sum, _ := recipes.ReadFile("recipes/" + r.name + ".sum")
	return artifact{
		name: r.name, version: r.version,
		inputs: []string{string(mod), string(sum), r.tags, r.ldflags, fmt.Sprint(r.packages), runtime.Version(), runtime.GOARCH},
		build: func(ctx context.Context, dir string, m *manifest) error {
			m.Inputs = []string{"recipes/" + r.name + ".mod", "recipes/" + r.name + ".sum", "tags " + r.tags, runtime.Version(), runtime.GOARCH}
			module := filepath.Join(dir, "module")
			if err := os.MkdirAll(module, 0o755); err != nil {
				return err
			}
			defer os.RemoveAll(module)
			for name, data := range map[string][]byte{"go.mod": mod, "go.sum": sum} {
				if err := os.WriteFile(filepath.Join(module, name), data, 0o644); err != nil {
					return err
				}
			}
			return buildGo(ctx, module, dir, r, m)
		},
	}
}

// buildGo builds a recipe's programs in its module, statically, into dir.
func buildGo(ctx context.Context, module, dir string, r recipe, m *manifest) error {
	for _, program := range sortedKeys(r.packages) {
		argv := []string{"go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-tags", r.tags, "-ldflags", strings.TrimSpace("-s -w " + r.ldflags), "-o", filepath.Join(dir, program), r.packages[program]}
		if _, err := run(ctx, module, []string{"CGO_ENABLED=0", "GOWORK=off"}, argv...); err != nil {
			return err
		}
		info, err := buildinfo.ReadFile(filepath.Join(dir, program))
		if err != nil {
			return fmt.Errorf("read what %s was built from: %w", program, err)
		}
		m.Contents["go"] = info.GoVersion
		m.Contents["module "+info.Main.Path] = strings.TrimSpace(info.Main.Version + " " + info.Main.Sum)
		for _, d := range info.Deps {
			if d.Replace != nil {
				d = d.Replace
			}
			m.Contents["module "+d.Path] = strings.TrimSpace(d.Version + " " + d.Sum)
		}
	}
	return nil
}

// pause is the program that holds a pod's namespaces: it does nothing.
func pause() artifact {
	source, _ := recipes.ReadFile("recipes/pause.go.txt")
	return artifact{
		name: "pause", version: pauseVersion, inputs: []string{string(source), runtime.Version(), runtime.GOARCH},
		build: func(ctx context.Context, dir string, m *manifest) error {
			m.Inputs = []string{"recipes/pause.go.txt", runtime.Version()}
			module := filepath.Join(dir, "module")
			if err := os.MkdirAll(module, 0o755); err != nil {
				return err
			}
			defer os.RemoveAll(module)
			if err := os.WriteFile(filepath.Join(module, "main.go"), source, 0o644); err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(module, "go.mod"), []byte("module keylab.test/pause\n\ngo 1.24\n"), 0o644); err != nil {
				return err
			}
			return buildGo(ctx, module, dir, recipe{packages: map[string]string{"pause": "."}}, m)
		},
	}
}

// moduleFile is a file out of a module of one of the recipes, from Go's module cache.
func moduleFile(ctx context.Context, scratch, recipeName, module, file string) ([]byte, error) {
	dir, err := moduleDir(ctx, scratch, recipeName, module)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(path.Clean(file))))
	if err != nil {
		return nil, fmt.Errorf("read %s of module %s: %w", file, module, err)
	}
	return data, nil
}

// moduleDir is the folder of a module of one of the recipes, in Go's module cache.
func moduleDir(ctx context.Context, scratch, recipeName, module string) (string, error) {
	mod, _ := recipes.ReadFile("recipes/" + recipeName + ".mod")
	sum, _ := recipes.ReadFile("recipes/" + recipeName + ".sum")
	work := filepath.Join(scratch, "lookup-"+recipeName)
	if err := os.MkdirAll(work, 0o755); err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	for name, data := range map[string][]byte{"go.mod": mod, "go.sum": sum} {
		if err := os.WriteFile(filepath.Join(work, name), data, 0o644); err != nil {
			return "", err
		}
	}
	env := []string{"GOWORK=off"}
	if _, err := run(ctx, work, env, "go", "mod", "download", module); err != nil {
		return "", err
	}
	out, err := run(ctx, work, env, "go", "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", module)
	return strings.TrimSpace(out), err
}
