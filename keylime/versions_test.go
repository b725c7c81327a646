package keylime

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Requirements of a version that is based on another's are a whole file: each package pinned once, all with hashes, and its own pins in it.
func TestRequirements(t *testing.T) {
	pins := func(version string) map[string]string {
		text, err := Requirements(version)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "-r") {
				t.Errorf("%s: pip would be told to read another file: %s", version, line)
			}
			name, rest, ok := strings.Cut(line, "==")
			if !ok || strings.HasPrefix(line, "#") {
				continue
			}
			if _, twice := found[name]; twice {
				t.Errorf("%s: %s is pinned twice", version, name)
			}
			found[name], _, _ = strings.Cut(rest, " ")
			if pin, err := pinOf(text, name); err != nil || !strings.Contains(pin, "--hash=sha256:") {
				t.Errorf("%s: the pin of %s has no hash: %q, %v", version, name, pin, err)
			}
		}
		return found
	}
	newest := pins(DefaultVersion)
	for _, version := range Versions() {
		got := pins(version)
		if got["keylime"] != version {
			t.Errorf("%s: keylime is pinned to %s", version, got["keylime"])
		}
		for name := range newest {
			if got[name] == "" {
				t.Errorf("%s: %s is not pinned", version, name)
			}
		}
		if len(got) != len(newest) {
			t.Errorf("%s pins %d packages, %s %d", version, len(got), DefaultVersion, len(newest))
		}
	}
	if got := pins("7.12.2")["sqlalchemy"]; !strings.HasPrefix(got, "1.4.") {
		t.Errorf("Keylime 7.12.2 is to have SQLAlchemy 1.4, not %s", got)
	}
}

// Keylime 7.12.2 cannot be installed for the newest Python, which is said before anything is fetched; others can.
func TestNewestPython(t *testing.T) {
	python := filepath.Join(t.TempDir(), "python3.13")
	if err := os.WriteFile(python, []byte("#!/bin/sh\nprintf 'newest\\nok\\nok\\nok\\n'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, version := range Versions() {
		err := fatalProblems(Check(t.Context(), InstallOptions{Version: version, Python: python}))
		if refused := err != nil && strings.Contains(err.Error(), "is newer than 3.12 (SQLAlchemy 1.4, which Keylime 7.12.2 needs"); refused != (version == "7.12.2") {
			t.Errorf("%s: %v", version, err)
		}
	}
}

// The versions to which agents are limited are those that the services themselves name; the newest that negotiate set no limit.
func TestAgentAPIVersions(t *testing.T) {
	if got := AgentAPIVersions(DefaultVersion); got != nil {
		t.Errorf("Keylime %s negotiates, but agents are limited to %v", DefaultVersion, got)
	}
	for _, version := range Versions() {
		if version == DefaultVersion {
			continue
		}
		t.Run(version, func(t *testing.T) {
			kl := services(t, func(c *Config) {
				inst, err := EnsureInstalled(t.Context(), InstallOptions{Version: version})
				if err != nil {
					t.Fatal(err)
				}
				c.Installation = inst
			})
			v, err := kl.VerifierClient(nil).Version(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want := slices.DeleteFunc(v.Supported, func(s string) bool { return s < "2.1" }) // one digit each
			if got := AgentAPIVersions(version); !slices.Equal(got, want) || got[len(got)-1] != v.Current {
				t.Errorf("agents are limited to %v; the verifier knows %v, the newest %s", got, want, v.Current)
			}
			if all, err := kl.VerifierClient(nil).Agents(t.Context()); err != nil || len(all) != 0 {
				t.Errorf("agents of the verifier: %v, %v; want none", all, err)
			}
			if ids, err := kl.RegistrarClient(nil).Agents(t.Context()); err != nil || len(ids) != 0 {
				t.Errorf("agents of the registrar: %v, %v; want none", ids, err)
			}
		})
	}
}
