package images

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"keylab.dev/keylab/images/registrytest"
)

func dockerClient(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := c.Ping(t.Context()); err != nil {
		t.Skipf("NOT RUN: Docker does not answer: %v", err)
	}
	return c
}

// A mirror has the official images under their own paths; they are pulled from there, and keep the mirror's names: what Docker knows by the official ones
// stays what it is.
func TestRegistry(t *testing.T) {
	docker, mirror := dockerClient(t), registrytest.Start(t)
	o := Options{Source: SourceRegistry, Registry: mirror, Keylime: "9.9.9", Kubernetes: "v9.9.9", Docker: docker}
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range o.published() {
		push(t, ref)
		t.Cleanup(func() {
			_, _ = docker.ImageRemove(context.Background(), ref, image.RemoveOptions{Force: true}) // it may not have come so far
		})
	}
	o.CacheDir = cacheOfTests(t)
	set, err := Ensure(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if set.Source != SourceRegistry || set.Node != mirror+"/kindest/node:v9.9.9" || set.Verifier != mirror+"/keylime/keylime_verifier:v9.9.9" || !set.BuiltInCNI {
		t.Errorf("set %+v", set)
	}
	for _, ref := range []string{set.Node, set.Registrar, set.Verifier, set.Tenant, set.MetalLBController, set.MetalLBSpeaker, set.Tools} {
		if _, err := docker.ImageInspect(t.Context(), ref); err != nil {
			t.Errorf("Docker does not know %s: %v", ref, err)
		}
	}
	if !strings.Contains(string(set.MetalLBManifest), set.MetalLBSpeaker) {
		t.Error("MetalLB's manifest does not name its image")
	}
	if _, err := docker.ImageInspect(t.Context(), "kindest/node:v9.9.9"); err == nil {
		t.Error("Docker knows the mirror's image by its official name")
	}
	list, err := List(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if node := (Image{Name: mirror + "/kindest/node", Version: "v9.9.9", Reference: set.Node, Loaded: true}); !slices.ContainsFunc(list, func(i Image) bool { i.Size = 0; return i == node }) {
		t.Errorf("the list of images does not have the node's: %+v", list)
	}

	o.Keylime = "0.0.1" // which the mirror does not have
	if _, err := Ensure(t.Context(), o); err == nil || !strings.Contains(err.Error(), mirror+"/keylime/keylime_") {
		t.Errorf("an image that is not there: %v", err)
	}
}

// push puts an image of random bytes into a registry.
func push(t *testing.T, ref string) {
	t.Helper()
	tag, err := name.NewTag(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := random.Image(1000, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
}

// cacheOfTests is the user's own cache: the tools' image, which no registry has, is in there already or is built once.
func cacheOfTests(t *testing.T) string {
	t.Helper()
	base := os.Getenv("KEYLAB_CACHE_DIR")
	if base == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		base = filepath.Join(dir, "keylab")
	}
	return filepath.Join(base, "images")
}

// auto takes a registry that answers as one, and says which; else it builds, and says why.
func TestAuto(t *testing.T) {
	mirror := registrytest.Start(t)
	l := local{&store{log: func(string) {}}, Options{Registry: mirror}}
	if source, why := l.choose(t.Context()); source != SourceRegistry || !strings.Contains(why, mirror) {
		t.Errorf("with a registry: %s, %q", source, why)
	}
	server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }() // ends with the test
	t.Cleanup(func() { server.Close() })
	l.o.Registry = listener.Addr().String()
	if source, why := l.choose(t.Context()); source != SourceLocal || !strings.Contains(why, "404") {
		t.Errorf("with a server that is no registry: %s, %q", source, why)
	}
}

// The list names what the cache has and what it lacks.
func TestList(t *testing.T) {
	docker := dockerClient(t)
	list, err := List(t.Context(), Options{Source: SourceLocal, CacheDir: filepath.Join(t.TempDir(), "empty"), Keylime: "7.14.3", Docker: docker})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 20 {
		t.Errorf("%d artifacts", len(list))
	}
	for _, i := range list {
		if i.Cached || i.Manifest != "" {
			t.Errorf("%s is in an empty cache", i.Name)
		}
	}
	if _, err := json.Marshal(list); err != nil {
		t.Error(err)
	}
}
