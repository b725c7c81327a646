package images

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func newStore(t *testing.T) *store {
	t.Helper()
	return &store{dir: filepath.Join(t.TempDir(), "images"), log: func(string) {}}
}

// An artifact is made once, whoever wants it at the same time, and again when what it is made from changes.
func TestEnsureOnce(t *testing.T) {
	s := newStore(t)
	var builds atomic.Int32
	a := artifact{name: "thing", version: "1", inputs: []string{"x"}, build: func(_ context.Context, dir string, m *manifest) error {
		builds.Add(1)
		m.Contents["part"] = "v1"
		return os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o644)
	}}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			dir, err := s.ensure(t.Context(), a)
			if err != nil {
				t.Error(err)
				return
			}
			if data, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(data) != "content" {
				t.Errorf("%q, %v", data, err)
			}
		})
	}
	wg.Wait()
	if n := builds.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
	if m, ok := s.manifest(a); !ok || m.Contents["part"] != "v1" || m.Size != 7 {
		t.Errorf("manifest %+v, %v", m, ok)
	}
	a.inputs = []string{"y"}
	if _, err := s.ensure(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if n := builds.Load(); n != 2 {
		t.Errorf("other inputs: built %d times in all, want 2", n)
	}
}

// A build that fails or is killed leaves nothing that counts as one.
func TestEnsureFails(t *testing.T) {
	s := newStore(t)
	boom := errors.New("boom")
	fail := true
	a := artifact{name: "thing", version: "1", build: func(_ context.Context, dir string, _ *manifest) error {
		if err := os.WriteFile(filepath.Join(dir, "half"), nil, 0o644); err != nil {
			return err
		}
		if fail {
			return boom
		}
		if _, err := os.Stat(filepath.Join(dir, "half2")); err == nil {
			return errors.New("the remains of an earlier build are there")
		}
		return nil
	}}
	if _, err := s.ensure(t.Context(), a); !errors.Is(err, boom) || !strings.Contains(err.Error(), "build thing 1") {
		t.Errorf("error %v", err)
	}
	if _, ok := s.manifest(a); ok {
		t.Error("a failed build counts as made")
	}
	// As a killed build leaves it.
	if err := os.MkdirAll(s.folder(a)+".new", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.folder(a)+".new", "half2"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	fail = false
	if _, err := s.ensure(t.Context(), a); err != nil {
		t.Error(err)
	}
}

// Every Go program is pinned: a recipe has its go.mod and go.sum, and the module that it is about.
func TestRecipesArePinned(t *testing.T) {
	for _, r := range append(programRecipes(), recipe{name: kindRecipe, version: "v0.30.0", packages: map[string]string{"": kindModule}}) {
		mod, err := recipes.ReadFile("recipes/" + r.name + ".mod")
		if err != nil {
			t.Error(err)
			continue
		}
		sum, err := recipes.ReadFile("recipes/" + r.name + ".sum")
		if err != nil || len(sum) == 0 {
			t.Errorf("%s: %v, %d bytes of sums", r.name, err, len(sum))
		}
		if !strings.Contains(string(mod), " "+r.version+"\n") {
			t.Errorf("recipes/%s.mod does not require %s", r.name, r.version)
		}
	}
}

// A recipe builds a static program with the version that it says, and its manifest lists the modules.
func TestBuildProgram(t *testing.T) {
	s := newStore(t)
	a := programs(recipeNamed("cni-plugins"))
	dir, err := s.ensure(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	out, err := run(t.Context(), dir, []string{"CNI_COMMAND=VERSION"}, filepath.Join(dir, "ptp"))
	if err != nil || !strings.Contains(out, "1.0.0") {
		t.Errorf("%s, %v", out, err)
	}
	m, _ := s.manifest(a)
	if v := m.Contents["module github.com/containernetworking/plugins"]; !strings.HasPrefix(v, cniVersion+" h1:") {
		t.Errorf("the manifest lists %q", m.Contents)
	}
}

// Kubernetes of another version than the recipes' is refused with what to do.
func TestOtherKubernetes(t *testing.T) {
	if err := pinnedKubernetes("v1.30.0"); err == nil || !strings.Contains(err.Error(), "images.source: registry") {
		t.Errorf("error %v", err)
	}
	if err := pinnedKubernetes(DefaultKubernetes); err != nil {
		t.Error(err)
	}
}
