package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

// published are the names of the images that others publish: the official ones, or those of the mirror.
func (o Options) published() map[string]string {
	names := map[string]string{
		"node":               "docker.io/kindest/node:" + o.Kubernetes,
		"registrar":          "quay.io/keylime/keylime_registrar:v" + o.Keylime,
		"verifier":           "quay.io/keylime/keylime_verifier:v" + o.Keylime,
		"tenant":             "quay.io/keylime/keylime_tenant:v" + o.Keylime,
		"metallb-controller": "quay.io/metallb/controller:" + metalLBVersion,
		"metallb-speaker":    "quay.io/metallb/speaker:" + metalLBVersion,
	}
	if o.Registry != "" {
		for part, name := range names {
			names[part] = mirrored(name, o.Registry)
		}
	}
	return names
}

// mirrored is an official name at a mirror: its registry's name makes room for the mirror's.
func mirrored(name, mirror string) string {
	_, path, _ := strings.Cut(name, "/")
	return strings.TrimSuffix(mirror, "/") + "/" + path
}

// registryTimeout is how long a registry may take to say that it is one.
const registryTimeout = 3 * time.Second

// choose decides for auto.
func (l local) choose(ctx context.Context) (Source, string) {
	registry := l.o.Registry
	if registry == "" {
		registry = "quay.io"
	}
	host, _, _ := strings.Cut(registry, "/")
	err := answers(ctx, host)
	if err == nil {
		return SourceRegistry, "images come from registries: " + host + " answers (the one with swtpm and HAProxy, which nobody publishes, is built here)"
	}
	return SourceLocal, fmt.Sprintf("images are built here: no registry can be reached (%v)", err)
}

// answers asks a registry whether it is one (OCI Distribution Specification, section "Determining Support").
func answers(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	scheme := "https"
	if strings.HasPrefix(host, "127.") || strings.HasPrefix(host, "localhost") {
		scheme = "http" // Docker too takes a registry on the loopback without TLS
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+host+"/v2/", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("%s answers %s, not as a registry does", host, resp.Status)
	}
	return nil
}

// pull has Docker pull the published images. Tools and Proxy, which nobody publishes, are built here.
func (l local) pull(ctx context.Context) (Set, error) {
	var set Set
	refs := l.o.published()
	for _, part := range sortedKeys(refs) {
		if err := l.pullOne(ctx, refs[part]); err != nil {
			return set, err
		}
	}
	tools := l.tools()
	if _, ok := l.manifest(tools); !ok {
		if err := problems(Problems()); err != nil {
			return set, err
		}
	}
	for _, a := range []artifact{tools, l.proxy()} {
		if err := l.load(ctx, a); err != nil {
			return set, err
		}
	}
	set.Node, set.Registrar, set.Verifier, set.Tenant = refs["node"], refs["registrar"], refs["verifier"], refs["tenant"]
	set.MetalLBController, set.MetalLBSpeaker, set.Tools = refs["metallb-controller"], refs["metallb-speaker"], reference(tools)
	set.Proxy = reference(l.proxy())
	set.InCluster = []string{set.MetalLBController, set.MetalLBSpeaker, set.Proxy, set.Tools}
	set.BuiltInCNI = true
	var err error
	set.MetalLBManifest, err = l.metalLBManifest(ctx, set.MetalLBController, set.MetalLBSpeaker)
	return set, err
}

// pullOne pulls one image, if Docker does not have it.
func (l local) pullOne(ctx context.Context, ref string) error {
	if l.loaded(ctx, ref) {
		return nil
	}
	l.log("pulling " + ref)
	return Pull(ctx, l.o.Docker, ref)
}

// Pull has Docker pull an image that it does not have.
func Pull(ctx context.Context, docker *client.Client, ref string) error {
	if _, err := docker.ImageInspect(ctx, ref); err == nil {
		return nil
	}
	r, err := docker.ImagePull(ctx, ref, image.PullOptions{})
	if err != nil {
		return fmt.Errorf("pull image %s: %w", ref, err)
	}
	defer r.Close()
	messages := json.NewDecoder(r)
	for {
		var m struct {
			Error string `json:"error"`
		}
		if err := messages.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("pull image %s: %w", ref, err)
		}
		if m.Error != "" {
			return fmt.Errorf("pull image %s: %s", ref, m.Error)
		}
	}
}
