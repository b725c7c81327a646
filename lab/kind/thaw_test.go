package kind

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Only what is frozen of the container itself is thawed, however deep in it.
func TestThaw(t *testing.T) {
	root := t.TempDir()
	states := map[string]string{
		"docker/aaa/freezer.state":                           "THAWED\n",
		"docker/aaa/kubelet.slice/pod/freezer.state":         "FROZEN\n",
		"docker/bbb/kubelet.slice/pod/freezer.state":         "FROZEN\n",
		"system.slice/docker-aaa.scope/nested/freezer.state": "FREEZING\n",
	}
	for path, s := range states {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := thaw(root, "aaa"); err != nil {
		t.Fatal(err)
	}
	for path := range states {
		got, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.Contains(path, "aaa"); want != (strings.TrimSpace(string(got)) == "THAWED") {
			t.Errorf("%s is %s", path, got)
		}
	}
	if err := thaw(root, "nobody"); err != nil {
		t.Errorf("of a container that has none: %v", err)
	}
}
