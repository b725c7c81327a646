package netlab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSelfTestPassesAndLeavesNothing(t *testing.T) {
	dir := runDir(t)
	if err := SelfTest(testContext(t), dir); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestAvailableHere(t *testing.T) {
	for _, p := range Available(testContext(t)) {
		t.Error(p)
	}
}

func TestAvailableNamesTheSettingThatForbids(t *testing.T) {
	for _, c := range []struct {
		key, value string
		root       bool
		want       string // "" for none
	}{
		{"user/max_user_namespaces", "0", false, "user.max_user_namespaces"},
		{"user/max_user_namespaces", "0", true, ""},
		{"kernel/unprivileged_userns_clone", "0", false, "kernel.unprivileged_userns_clone=1"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", false, "AppArmor"},
		{"kernel/apparmor_restrict_unprivileged_userns", "0", false, ""},
		{"user/max_net_namespaces", "0", true, "user.max_net_namespaces"},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, c.key)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(c.value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		problems := available(testContext(t), dir, c.root)
		if c.want == "" && len(problems) > 0 || c.want != "" && (len(problems) != 1 || !strings.Contains(problems[0].String(), c.want)) {
			t.Errorf("%s = %s, root %v: %v, want %q", c.key, c.value, c.root, problems, c.want)
		}
	}
}
