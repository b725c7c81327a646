package fleet

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// Nodes share a runtime policy exactly if it allows the same, and only nodes without a boot log need a boot aggregate in it.
func TestAllowList(t *testing.T) {
	files := func(paths ...string) plan.Node {
		n := plan.Node{Name: "n", IMA: &plan.IMA{Template: "ima-ng"}}
		for _, p := range paths {
			n.IMA.Files = append(n.IMA.Files, plan.IMAFile{Path: p, Digest: "sha256:" + strings.Repeat("ab", 32)})
		}
		return n
	}
	a, same, other, boots := files("/a b"), files("/a b"), files("/c"), files("/a b")
	boots.MeasuredBoot = &plan.MeasuredBoot{}
	// SHA-256 of 320 zero bytes, by sha256sum.
	want := "7b6436b0c98f62380866d9432c2af0ee08ce16a171bda6951aecd95ee1307d61  boot_aggregate\n" + strings.Repeat("ab", 32) + "  /a_b\n"
	if got := allowList(a); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := allowList(boots); got != strings.Repeat("ab", 32)+"  /a_b\n" {
		t.Errorf("with a boot log: %q", got)
	}
	if policyName(a) != policyName(same) || policyName(a) == policyName(other) || policyName(a) == policyName(boots) {
		t.Error("policies are shared by nodes that differ, or not by those that are alike")
	}
}

func TestAddPolicies(t *testing.T) {
	dir := state.Dir{Lab: "lab", Path: t.TempDir()}
	n := plan.Node{Name: "n", MeasuredBoot: &plan.MeasuredBoot{FirmwareVersion: "1", SecureBoot: true, CommandLine: "quiet"}}
	measured, err := Measured(dir, "lab", n, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := keylime.Request{UUID: "u"}
	if err := AddPolicies(&r, dir, n, measured.RefState); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(r.MBPolicyFile)
	if err != nil || !json.Valid(data) || !strings.Contains(string(data), "quiet") || r.RuntimePolicyFile != "" {
		t.Errorf("%+v, %v: %s", r, err, data)
	}
	if info, err := os.Stat(dir.Policies()); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	r = keylime.Request{UUID: "u"}
	if err := AddPolicies(&r, dir, plan.Node{Name: "none"}, measured.RefState); err != nil || r.RuntimePolicyFile != "" || r.MBPolicyFile != "" {
		t.Errorf("a node that measures nothing: %+v, %v", r, err)
	}
}

// The policies of a lab's last run are gone, and the folder is the one that it was: a container may have it mounted by then.
func TestMakePoliciesInTheSameFolder(t *testing.T) {
	dir := state.Dir{Lab: "lab", Path: t.TempDir()}
	if err := os.MkdirAll(dir.Policies(), 0o700); err != nil {
		t.Fatal(err)
	}
	stale := filepath.Join(dir.Policies(), "stale.json")
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(dir.Policies())
	if err != nil {
		t.Fatal(err)
	}
	if err := MakePolicies(t.Context(), dir, nil, plan.Plan{}); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(dir.Policies())
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("the folder is another one")
	}
	if _, err := os.Stat(stale); err == nil {
		t.Error("a policy of the last run is there still")
	}
}
