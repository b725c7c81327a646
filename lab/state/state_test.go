package state_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/lab/state"
)

func TestBases(t *testing.T) {
	home := t.TempDir()
	tests := []struct {
		name        string
		env         map[string]string
		base, cache string
	}{
		{"home", nil, home + "/.local/state/keylab", home + "/.cache/keylab"},
		{"xdg", map[string]string{"XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c"}, "/s/keylab", "/c/keylab"},
		{"relative xdg is ignored", map[string]string{"XDG_STATE_HOME": "s"}, home + "/.local/state/keylab", home + "/.cache/keylab"},
		{"own", map[string]string{state.EnvBase: "/own", state.EnvCache: "/owncache", "XDG_STATE_HOME": "/s"}, "/own", "/owncache"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, name := range []string{state.EnvBase, state.EnvCache, "XDG_STATE_HOME", "XDG_CACHE_HOME"} {
				t.Setenv(name, test.env[name])
			}
			t.Setenv("HOME", home)
			if got, err := state.Base(); err != nil || got != test.base {
				t.Errorf("base: %q, %v; want %q", got, err, test.base)
			}
			if got, err := state.CacheBase(); err != nil || got != test.cache {
				t.Errorf("cache: %q, %v; want %q", got, err, test.cache)
			}
		})
	}
	t.Run("nothing set", func(t *testing.T) {
		for _, name := range []string{state.EnvBase, state.EnvCache, "XDG_STATE_HOME", "XDG_CACHE_HOME", "HOME"} {
			t.Setenv(name, "")
		}
		if _, err := state.Base(); err == nil || !strings.Contains(err.Error(), "set "+state.EnvBase) {
			t.Errorf("base without a home folder: %v", err)
		}
		if _, err := state.CacheBase(); err == nil || !strings.Contains(err.Error(), "set "+state.EnvCache) {
			t.Errorf("cache without a home folder: %v", err)
		}
	})
}

// A lab's folder: only its owner may look in, it is listed while it is there, and it can be removed twice.
func TestFolder(t *testing.T) {
	t.Setenv(state.EnvBase, t.TempDir())
	if labs, err := state.List(); err != nil || len(labs) != 0 {
		t.Errorf("labs before there are any: %v, %v", labs, err)
	}
	for _, name := range []string{"b", "a"} {
		d := folder(t, name)
		if d.Exists() {
			t.Errorf("%s exists already", name)
		}
		if err := d.Create(); err != nil {
			t.Fatal(err)
		}
		if err := d.Create(); err != nil {
			t.Errorf("make %s again: %v", name, err)
		}
		if !d.Exists() {
			t.Errorf("%s does not exist", name)
		}
		for _, p := range []string{d.Path, d.Logs(), d.TPM(""), d.Agent(""), d.Keylime()} {
			if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("%s: %v, %v; want a folder with mode 0700", p, info, err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(folder(t, "a").Path), "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	labs, err := state.List()
	if err != nil || len(labs) != 2 || labs[0] != folder(t, "a") || labs[1] != folder(t, "b") {
		t.Errorf("labs: %v, %v", labs, err)
	}
	for range 2 {
		if err := folder(t, "a").Remove(); err != nil {
			t.Error(err)
		}
	}
	if labs, err := state.List(); err != nil || len(labs) != 1 {
		t.Errorf("labs after one was removed: %v, %v", labs, err)
	}
}

// The key, part of a socket's name, differs for labs of one name in different folders and is short whatever the folder.
func TestKey(t *testing.T) {
	t.Setenv(state.EnvBase, "/a")
	first := folder(t, "x").Key()
	if first != folder(t, "x").Key() {
		t.Error("the key changes")
	}
	t.Setenv(state.EnvBase, "/"+strings.Repeat("long/", 200))
	second := folder(t, "x").Key()
	if first == second {
		t.Error("two folders have one key")
	}
	// unix(7): an address has 108 bytes, of which the prefix and a user's number take some.
	if longest := folder(t, strings.Repeat("x", 32)).Key(); len(longest) > 80 {
		t.Errorf("a key of %d bytes", len(longest))
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, text := range []string{"a longer text", "short"} {
		if err := atomicfile.Write(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("read back %q, %v; want %q", got, err, text)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != fs.FileMode(0o600) {
		t.Errorf("%v, %v", info, err)
	}

	// Where it cannot be written, the error says where, and nothing is left.
	folder := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(folder, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(folder, nil, 0o600); err == nil || !strings.Contains(err.Error(), folder) {
		t.Errorf("write over a folder: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if err := atomicfile.Write(filepath.Join(dir, "missing", "file"), nil, 0o600); err == nil || !strings.Contains(err.Error(), "missing/file") {
		t.Errorf("write into a folder that is not there: %v", err)
	}
}

func folder(t *testing.T, name string) state.Dir {
	t.Helper()
	d, err := state.For(name)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// The end of a log: its last lines, indented, and nothing from before the offset.
func TestLogTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.log")
	long := strings.Repeat("old\n", 20) + strings.Repeat("new\n", 20)
	if err := os.WriteFile(path, []byte(long), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := state.LogTail(path, 0), strings.TrimSuffix(strings.Repeat("  new\n", 15), "\n"); got != want {
		t.Errorf("the tail is %q, want %q", got, want)
	}
	if got, want := state.LogTail(path, int64(len(long))-8), "  new\n  new"; got != want {
		t.Errorf("the tail from an offset is %q, want %q", got, want)
	}
	if got := state.LogTail(path+".none", 0); !strings.Contains(got, "no such file") {
		t.Errorf("the tail of no file is %q", got)
	}
}
