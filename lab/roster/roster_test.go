package roster_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/roster"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
)

func lab(t *testing.T, nodes int) (spec.Spec, plan.Plan) {
	t.Helper()
	s := spec.Default()
	s.Nodes = spec.Nodes{Count: nodes}
	s.SetDefaults()
	p, err := plan.Make(s)
	if err != nil {
		t.Fatal(err)
	}
	return s, p
}

// written is the folder of a lab of two nodes.
func written(t *testing.T) state.Dir {
	t.Helper()
	dir := state.Dir{Lab: "keylab", Path: t.TempDir()}
	if err := dir.Create(); err != nil {
		t.Fatal(err)
	}
	s, p := lab(t, 2)
	if err := roster.Write(dir, s, p); err != nil {
		t.Fatal(err)
	}
	return dir
}

func fill(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// What was reserved for a node and is given up leaves nothing of it, and all of the others.
func TestReserve(t *testing.T) {
	dir := written(t)
	identity, err := os.ReadFile(dir.Identity())
	if err != nil {
		t.Fatal(err)
	}
	_, three := lab(t, 3)
	undo, err := roster.Reserve(dir, three, "node-3")
	if err != nil {
		t.Fatal(err)
	}
	of := func(node string) []string {
		return []string{dir.TPM(node) + "/state", dir.TPM(node) + ".seed", dir.Agent(node) + "/uuid", dir.Measured(node) + "/list"}
	}
	others := append(of("node-2"), of("node-30")...)
	fill(t, append(of("node-3"), others...)...)
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	for _, path := range of("node-3") {
		if exists(path) {
			t.Errorf("%s is left", path)
		}
	}
	for _, path := range others {
		if !exists(path) {
			t.Errorf("%s is gone", path)
		}
	}
	if now, err := os.ReadFile(dir.Identity()); err != nil || string(now) != string(identity) {
		t.Errorf("%s, %v, before %s", now, err, identity)
	}
}

// A node that the folder knows keeps what it had, also when it cannot join; and it must be made from the same as then.
func TestReserveForOneThatWasThere(t *testing.T) {
	dir := written(t)
	_, three := lab(t, 3)
	if _, err := roster.Reserve(dir, three, "node-3"); err != nil {
		t.Fatal(err)
	}
	fill(t, dir.TPM("node-3")+"/state")
	undo, err := roster.Reserve(dir, three, "node-3")
	if err != nil {
		t.Fatal(err)
	}
	if err := undo(); err != nil || !exists(dir.TPM("node-3")+"/state") {
		t.Errorf("its TPM is gone, %v", err)
	}
	three.Nodes[2].TPM.EKAlgorithm = "ecc-p256"
	if _, err := roster.Reserve(dir, three, "node-3"); err == nil || !strings.Contains(err.Error(), "the TPM of node-3 was made from another specification") {
		t.Errorf("another TPM: %v", err)
	}
}

func TestReadSpec(t *testing.T) {
	dir := written(t)
	s, err := roster.ReadSpec(dir)
	if err != nil || s.Nodes.Len() != 2 || s.Name != "keylab" {
		t.Errorf("%+v, %v", s.Nodes, err)
	}
	if err := os.Remove(dir.Spec()); err != nil {
		t.Fatal(err)
	}
	if _, err := roster.ReadSpec(dir); err == nil || !strings.Contains(err.Error(), "read the lab's specification") {
		t.Errorf("%v", err)
	}
}
