package fleet

import (
	"os"
	"slices"
	"strings"
	"testing"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// What a run of the lab has allowed beside the specification counts for the next enrolment and for what is shown, and for this node alone.
func TestAllowedInThisRun(t *testing.T) {
	dir := state.Dir{Lab: "x", Path: t.TempDir()}
	digest := func(c string) string { return "sha256:" + strings.Repeat(c, 64) }
	n := plan.Node{Name: "db", IMA: &plan.IMA{Files: []plan.IMAFile{{Path: "/bin/sh", Digest: digest("1")}}}}
	list := func() *control.IMAList {
		return &control.IMAList{Entries: []control.IMAEntry{{Path: "boot_aggregate", Digest: digest("0")}, {Path: "/bin/sh", Digest: digest("1")}, {Path: "/bin/new", Digest: digest("2")}}}
	}
	allowed := func(n plan.Node) string {
		t.Helper()
		l := list()
		if err := MarkAllowed(dir, n, l); err != nil {
			t.Fatal(err)
		}
		var paths []string
		for _, e := range l.Entries {
			if e.Allowed {
				paths = append(paths, e.Path)
			}
		}
		return strings.Join(paths, " ")
	}
	if got := allowed(n); got != "boot_aggregate /bin/sh" {
		t.Errorf("before: %s", got)
	}
	if err := os.MkdirAll(dir.Policies(), 0o700); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		allowedFile(dir, n):   `[{"path":"/bin/new","digest":"` + digest("2") + `","later":true}]`,
		tpmPolicyFile(dir, n): `{"15":["00"]}`,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := allowed(n); got != "boot_aggregate /bin/sh /bin/new" {
		t.Errorf("after: %s", got)
	}
	if len(n.IMA.Files) != 1 {
		t.Error("the plan itself was changed")
	}
	var db, web keylime.Request
	other := plan.Node{Name: "web", IMA: n.IMA}
	if err := AddPolicies(&db, dir, n, nil); err != nil {
		t.Fatal(err)
	}
	if err := AddPolicies(&web, dir, other, nil); err != nil {
		t.Fatal(err)
	}
	more, err := WithAllowed(dir, n)
	if err != nil || db.RuntimePolicyFile != runtimePolicy(dir, more) || db.TPMPolicy != `{"15":["00"]}` {
		t.Errorf("the node is enrolled with %s and %q, %v", db.RuntimePolicyFile, db.TPMPolicy, err)
	}
	if web.RuntimePolicyFile != runtimePolicy(dir, n) || web.TPMPolicy != "" || allowed(other) != "boot_aggregate /bin/sh" {
		t.Errorf("the other node is enrolled with %s and %q", web.RuntimePolicyFile, web.TPMPolicy)
	}
	if err := os.WriteFile(allowedFile(dir, n), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := WithAllowed(dir, n); err == nil || !slices.Contains(strings.Fields(err.Error()), "db") {
		t.Errorf("a broken file: %v", err)
	}
}
