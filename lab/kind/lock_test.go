package kind

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/roster"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
)

// made is planned, with the lab's folder.
func made(t *testing.T, text string) (state.Dir, plan.Plan) {
	t.Helper()
	dir, p := planned(t, text)
	s, err := spec.Decode("test.yaml", []byte(fakeHead+text))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(dir.Create(), roster.Write(dir, s, p)); err != nil {
		t.Fatal(err)
	}
	return dir, p
}

// What is done to a node waits for what another command does to it, and then knows what that has learnt; other nodes do not wait.
func TestHoldNodes(t *testing.T) {
	dir, p := made(t, "nodes: [{name: a}, {name: b}]\n")
	first, err := newLab(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := newLab(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()

	release, err := first.holdNodes(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	impatient, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("ctrl-C"))
	if _, err := second.holdNodes(impatient, "b", "a"); err == nil || !strings.Contains(err.Error(), "wait until nothing else is done to a: ") || !strings.Contains(err.Error(), "ctrl-C") {
		t.Errorf("a node that another holds: %v", err)
	}
	other, err := second.holdNodes(t.Context(), "b", "b") // which was released with the error
	if err != nil {
		t.Fatal(err)
	}
	other()
	if _, err := second.holdNodes(t.Context(), "a", "../c"); err == nil || !strings.Contains(err.Error(), `the lab has no node "../c"`) {
		t.Errorf("a node that is none: %v", err)
	}

	held := make(chan error)
	go func() {
		release, err := second.holdNodes(t.Context(), "b", "a")
		if err == nil {
			release()
		}
		held <- err
	}()
	if err := first.learnNode("a", func(f *nodeFacts) { f.UUID = "of another TPM" }); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-held:
		t.Fatalf("two hold a node at once: %v", err)
	default:
	}
	release()
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	if got := second.node("a").UUID; got != "of another TPM" {
		t.Errorf("after it waited for the other the node's UUID is %q", got)
	}
}

// Nodes join and leave when nothing is done to any node and nobody counts on them; and who waited for that knows which there are then.
func TestChangeAlone(t *testing.T) {
	dir, p := made(t, "nodes: [{name: a}, {name: b}]\n")
	ctx, end := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("nobody lets go of the lock"))
	defer end()
	open := func() *Lab {
		l, err := newLab(dir, p)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	first, second, third := open(), open(), open()
	release, err := first.holdNodes(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	beside, err := second.holdMembers(ctx) // who proves the lab keeps nobody from nodes
	if err != nil {
		t.Fatal(err)
	}
	beside()
	impatient, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("ctrl-C"))
	if _, err := second.changeAlone(impatient); err == nil || !strings.Contains(err.Error(), "wait until nothing else is done to the nodes") || !strings.Contains(err.Error(), "ctrl-C") {
		t.Errorf("while something is done to a node: %v", err)
	}
	release()
	alone, err := second.changeAlone(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for what, wait := range map[string]func() (func(), error){
		"until no node joins or leaves": func() (func(), error) { return first.holdMembers(impatient) },
		"joins or leaves: ":             func() (func(), error) { return first.holdNodes(impatient, "b") },
	} {
		if _, err := wait(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("while a node leaves: %v, want %q", err, what)
		}
	}
	waited := make(chan error)
	go func() {
		_, err := third.holdNodes(ctx, "b")
		waited <- err
	}()
	kept, err := roster.ReadSpec(dir)
	if err != nil {
		t.Fatal(err)
	}
	kept.Nodes = kept.Nodes.Without("b")
	next, err := p.Leave("b")
	if err != nil {
		t.Fatal(err)
	}
	if err := roster.Write(dir, kept, next); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-waited:
		t.Fatalf("something is done to a node while another leaves: %v", err)
	default:
	}
	alone()
	if err := <-waited; err == nil || !strings.Contains(err.Error(), `the lab has no node "b"; it has a`) {
		t.Errorf("a node that has left meanwhile: %v", err)
	}
}
