package kind

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// What is done to a node waits for what another command does to it, and then knows what that has learnt; other nodes do not wait.
func TestHoldNodes(t *testing.T) {
	dir, p := planned(t, "nodes: [{name: a}, {name: b}]\n")
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
