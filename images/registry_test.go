package images

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// registry is Debian's docker-registry on the loopback.
func registry(t *testing.T) (address string) {
	t.Helper()
	if _, err := exec.LookPath("docker-registry"); err != nil {
		t.Skipf("docker-registry is not installed: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = l.Addr().String()
	l.Close()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n", filepath.Join(dir, "data"), address)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for answers(t.Context(), address) != nil {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for docker-registry to answer: %s", said.String())
		}
		<-tick.C
	}
	return address
}

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

// A mirror has the official images under their own paths; they are pulled from there and known by their official names afterwards.
func TestRegistry(t *testing.T) {
	docker, mirror := dockerClient(t), registry(t)
	o := Options{Source: SourceRegistry, Registry: mirror, Keylime: "9.9.9", Kubernetes: "v9.9.9", Docker: docker}
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for _, official := range o.official() {
		push(t, mirrored(official, mirror))
		t.Cleanup(func() {
			for _, ref := range []string{official, mirrored(official, mirror)} {
				_, _ = docker.ImageRemove(context.Background(), ref, image.RemoveOptions{Force: true}) // it may not have come so far
			}
		})
	}
	o.CacheDir = cacheOfTests(t)
	set, err := Ensure(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if set.Source != SourceRegistry || set.Node != "docker.io/kindest/node:v9.9.9" || set.Verifier != "quay.io/keylime/keylime_verifier:v9.9.9" || !set.BuiltInCNI {
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
	mirror := registry(t)
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
