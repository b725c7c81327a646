package lab_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/spec"
)

// TPMs are cleared, exchanged and copied: what Keylime makes of machines whose identity is no longer what it was.
func TestTPMActions(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, "name: benches\nnodes:\n  - {name: a}\n  - {name: b, tpm: {seed: the same each time}}\n  - {name: c}\n"))
	uuids, serials := identities(status(t, l))

	t.Run("cleared", func(t *testing.T) {
		done := do(t, l, control.Action{Kind: control.ActionResetTPM, Node: "a"})
		t.Log(done)
		if !strings.Contains(done, "a runs, but its agent could not register") || !strings.Contains(done, "403") {
			t.Errorf("the registrar must refuse another AK under a UUID that it knows: %s", done)
		}
		wantState(t, l, "a", "agent dead")
		if u, s := identities(status(t, l)); u["a"] != uuids["a"] || s["a"] != serials["a"] {
			t.Errorf("it has UUID %s and EK certificate %s, before %s and %s", u["a"], s["a"], uuids["a"], serials["a"])
		}
		act(t, l, control.ActionEnrol, "a")
		verify(t, l)
	})
	t.Run("exchanged", func(t *testing.T) {
		done := do(t, l, control.Action{Kind: control.ActionSwapTPMs, Node: "a", Other: "b"})
		t.Log(done)
		for _, n := range []string{"a", "b"} {
			if !strings.Contains(done, n+" runs, but its agent could not register") {
				t.Errorf("%s has an AK that the registrar does not know under its new UUID: %s", n, done)
			}
			wantState(t, l, n, "agent dead")
		}
		if u, _ := identities(status(t, l)); u["a"] != uuids["b"] || u["b"] != uuids["a"] {
			t.Errorf("the UUIDs did not change places: %v, before %v", u, uuids)
		}
		act(t, l, control.ActionEnrol, "a")
		act(t, l, control.ActionEnrol, "b")
		// Keylime is content. The books of the TPMs' maker know which TPM it put into which machine.
		verify(t, l, of([]string{"a", "b"}, "ek-certificate")...)
		do(t, l, control.Action{Kind: control.ActionSwapTPMs, Node: "a", Other: "b"})
		act(t, l, control.ActionEnrol, "a")
		act(t, l, control.ActionEnrol, "b")
		verify(t, l)
	})
	t.Run("copied", func(t *testing.T) {
		done := do(t, l, control.Action{Kind: control.ActionCloneTPM, Node: "b", Other: "c"})
		t.Log(done)
		if !strings.Contains(done, "c runs, but its agent could not register") || !strings.Contains(done, "the agent of b has registered") {
			t.Errorf("only the copy must be refused: %s", done)
		}
		if u, _ := identities(status(t, l)); u["c"] != uuids["b"] || u["b"] != uuids["b"] {
			t.Errorf("UUIDs of b and its copy: %v", u)
		}
		act(t, l, control.ActionReactivate, "b")
		moreOf(t, l, "b")
		if n := node(t, l, "c"); n.State != "agent dead" {
			t.Errorf("the copy is %s", n.State)
		}
		// Another TPM, as its own was destroyed.
		do(t, l, control.Action{Kind: control.ActionReplaceTPM, Node: "c"})
		act(t, l, control.ActionEnrol, "c")
		verify(t, l)
	})
	t.Run("kept", func(t *testing.T) {
		do(t, l, control.Action{Kind: control.ActionSwapTPMs, Node: "b", Other: "c"})
		before, _ := identities(status(t, l))
		if _, err := l.Down(context.Background()); err != nil {
			t.Fatal(err)
		}
		s := quick(t, "name: benches\nnodes:\n  - {name: a}\n  - {name: b, tpm: {seed: the same each time}}\n  - {name: c}\n")
		now, _ := identities(status(t, up(t, s)))
		wantSame(t, "UUIDs of exchanged TPMs over down and up", before, now)
	})
}

// A machine whose disk is lost keeps its TPM, and with that its UUID, unless it made that up; the agent has a new AK.
func TestReimage(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, "name: reimaged\nnodes:\n  - {name: a}\n  - {name: b, agent: {uuid: generate}}\n"))
	uuids, serials := identities(status(t, l))
	done := do(t, l, control.Action{Kind: control.ActionReimage, Node: "a"})
	if !strings.Contains(done, "a runs, but its agent could not register") || !strings.Contains(done, "403") {
		t.Errorf("the registrar must refuse another AK under a UUID that it knows: %s", done)
	}
	wantState(t, l, "a", "agent dead")
	act(t, l, control.ActionEnrol, "a")
	verify(t, l)
	done = do(t, l, control.Action{Kind: control.ActionReimage, Node: "b"})
	if !strings.Contains(done, "the agent of b has registered") {
		t.Errorf("nobody knows the new UUID, so it must be able to register: %s", done)
	}
	wantState(t, l, "b", "registered")
	act(t, l, control.ActionEnrol, "b")
	verify(t, l) // also that nobody knows the old UUID any more
	u, s := identities(status(t, l))
	wantSame(t, "EK certificates", serials, s)
	if u["a"] != uuids["a"] || u["b"] == uuids["b"] {
		t.Errorf("UUIDs: %v, before %v", u, uuids)
	}
}

func TestExtendPCR(t *testing.T) {
	t.Parallel()
	s := quick(t, "name: pcrs\nnodes: 2\nkeylime: {mode: push}\n")
	s.Keylime.QuoteInterval = spec.Duration(time.Second)
	l := up(t, s)
	pcr := 15
	done := do(t, l, control.Action{Kind: control.ActionExtendPCR, Node: "node-1", PCR: &pcr})
	t.Log(done)
	await(t, "the verifier to find that PCR 15 is not what its policy asks for", func() bool { return node(t, l, "node-1").State == "failed" })
	wantState(t, l, "node-2", "attested")
	for want, a := range map[string]control.Action{
		"pcr-extend needs a PCR, 0 to 23":                    {Kind: control.ActionExtendPCR, Node: "node-1"},
		"stop is about no PCR":                               {Kind: control.ActionStop, Node: "node-1", PCR: &pcr},
		"tpm-swap needs two different nodes":                 {Kind: control.ActionSwapTPMs, Node: "node-1"},
		"stop is done to one node, not to node-1 and node-2": {Kind: control.ActionStop, Node: "node-1", Other: "node-2"},
		`the lab has no node "node-9"`:                       {Kind: control.ActionSwapTPMs, Node: "node-1", Other: "node-9"},
	} {
		if _, err := l.Act(t.Context(), a); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", a, err, want)
		}
	}
}

func do(t *testing.T, l *lab.Lab, a control.Action) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	done, err := l.Act(ctx, a)
	if err != nil {
		t.Fatalf("%s %s %s: %v", a.Kind, a.Node, a.Other, err)
	}
	return done
}

// moreOf waits until a node has been attested twice more.
func moreOf(t *testing.T, l *lab.Lab, name string) {
	t.Helper()
	before := node(t, l, name).AttestationCount
	await(t, "two more attestations of "+name, func() bool { return node(t, l, name).AttestationCount >= before+2 })
}
