package images

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/docker/client"
)

// Source is where images come from.
type Source string

// The sources.
const (
	SourceAuto     Source = "auto" // the registry where it answers, else local
	SourceRegistry Source = "registry"
	SourceLocal    Source = "local"
)

// Options say which images are wanted.
type Options struct {
	Source     Source            // default SourceAuto
	Registry   string            // a mirror that stands in place of the official registries, e.g. 127.0.0.1:5000
	CacheDir   string            // default "keylab/images" in the user's cache folder
	Keylime    string            // version, e.g. 7.14.3
	Kubernetes string            // version; default DefaultKubernetes
	Docker     *client.Client    // needed
	Log        func(line string) // progress; may be nil
}

func (o Options) withDefaults() (Options, error) {
	if o.Source == "" {
		o.Source = SourceAuto
	}
	if o.Kubernetes == "" {
		o.Kubernetes = DefaultKubernetes
	}
	if o.Keylime == "" {
		return o, fmt.Errorf("images: no version of Keylime is named")
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	if o.CacheDir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return o, fmt.Errorf("no place to keep images: %w", err)
		}
		o.CacheDir = filepath.Join(base, "keylab", "images")
	}
	abs, err := filepath.Abs(o.CacheDir)
	o.CacheDir = abs
	return o, err
}

// Set is the images of one lab: references that Docker (Node, Registrar, Verifier, Tenant, Tools) or the cluster's nodes (the others, and Tools)
// know.
type Set struct {
	Source            Source   `json:"source"`        // which was used
	Why               string   `json:"why,omitempty"` // a sentence, where auto decided
	Node              string   `json:"node"`
	Registrar         string   `json:"registrar"`
	Verifier          string   `json:"verifier"`
	Tenant            string   `json:"tenant"`
	Tools             string   `json:"tools"`           // Debian with swtpm, HAProxy, tpm2-tools
	Proxy             string   `json:"proxy,omitempty"` // HAProxy alone; empty in a lab of an older keylab, which has it in Tools
	MetalLBController string   `json:"metallb_controller"`
	MetalLBSpeaker    string   `json:"metallb_speaker"`
	MetalLBManifest   []byte   `json:"metallb_manifest"`     // MetalLB's own, with these images put in
	BuiltInCNI        bool     `json:"built_in_cni"`         // the node image brings the pods' network
	InCluster         []string `json:"in_cluster,omitempty"` // to be loaded into the nodes, whose image lacks them
	KubernetesVersion string   `json:"kubernetes_version"`
	KeylimeVersion    string   `json:"keylime_version"`
}

// Ensure finds or builds the images, and makes Docker know those that it needs.
func Ensure(ctx context.Context, o Options) (Set, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Set{}, err
	}
	l := local{&store{dir: o.CacheDir, log: o.Log}, o}
	source, why := o.Source, ""
	if source == SourceAuto {
		source, why = l.choose(ctx)
	}
	var set Set
	if source == SourceRegistry {
		set, err = l.pull(ctx)
	} else {
		set, err = l.buildAll(ctx)
	}
	set.Source, set.Why, set.KubernetesVersion, set.KeylimeVersion = source, why, o.Kubernetes, o.Keylime
	return set, err
}

// buildAll builds what the cache lacks.
func (l local) buildAll(ctx context.Context) (Set, error) {
	var set Set
	if err := pinnedKubernetes(l.o.Kubernetes); err != nil {
		return set, err
	}
	services, err := l.keylimeServices(l.o.Keylime)
	if err != nil {
		return set, err
	}
	node, tools := l.node(), l.tools()
	if l.missing(ctx, node, tools, services) {
		if err := problems(Problems()); err != nil {
			return set, err
		}
	}
	// Docker may have been emptied since the node image was made, which only it has.
	if _, made := l.manifest(node); made && !l.loaded(ctx, reference(node)) {
		if err := os.RemoveAll(l.folder(node)); err != nil {
			return set, fmt.Errorf("forget the node image, which Docker no longer has: %w", err)
		}
	}
	for _, a := range []artifact{tools, services} {
		if err := l.load(ctx, a); err != nil {
			return set, err
		}
	}
	if _, err := l.ensure(ctx, node); err != nil {
		return set, err
	}
	set.Node, set.Tools, set.Proxy = reference(node), reference(tools), reference(l.proxy())
	set.Registrar, set.Verifier, set.Tenant = reference(services), reference(services), reference(services)
	set.MetalLBController = localPrefix + "metallb-controller:" + metalLBVersion
	set.MetalLBSpeaker = localPrefix + "metallb-speaker:" + metalLBVersion
	set.MetalLBManifest, err = l.metalLBManifest(ctx, set.MetalLBController, set.MetalLBSpeaker)
	return set, err
}

func (l local) missing(ctx context.Context, list ...artifact) bool {
	for _, a := range list {
		if _, ok := l.manifest(a); !ok || a.name == "image-node" && !l.loaded(ctx, reference(a)) {
			return true
		}
	}
	return false
}

const metalLBModule = "go.universe.tf/metallb"

// metalLBFile is MetalLB's installation as one file, out of its module.
func metalLBFile() artifact {
	mod, _ := recipes.ReadFile("recipes/metallb.mod")
	return artifact{
		name: "metallb-manifest", version: metalLBVersion, inputs: []string{string(mod)},
		build: func(ctx context.Context, dir string, m *manifest) error {
			m.Inputs = []string{metalLBModule + " " + metalLBVersion}
			data, err := moduleFile(ctx, dir, "metallb", metalLBModule, "config/manifests/metallb-native.yaml")
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "metallb-native.yaml"), data, 0o644)
		},
	}
}

// metalLBManifest is MetalLB's installation with other images.
func (l local) metalLBManifest(ctx context.Context, controller, speaker string) ([]byte, error) {
	dir, err := l.ensure(ctx, metalLBFile())
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, "metallb-native.yaml"))
	if err != nil {
		return nil, fmt.Errorf("read MetalLB's manifest: %w", err)
	}
	text := string(data)
	for official, ours := range map[string]string{"quay.io/metallb/controller:" + metalLBVersion: controller, "quay.io/metallb/speaker:" + metalLBVersion: speaker} {
		if !strings.Contains(text, official) {
			return nil, fmt.Errorf("MetalLB's manifest does not name the image %s", official)
		}
		text = strings.ReplaceAll(text, official, ours)
	}
	return []byte(text), nil
}
