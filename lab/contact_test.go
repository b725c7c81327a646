package lab_test

import (
	"strings"
	"testing"

	"keylab.dev/keylab/lab/control"
)

// An agent that is given another name is asked for at the one that it had, until it is enrolled anew; the name is a part of what is on its disk.
func TestContact(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, "name: renamed\nnodes:\n  - {name: a}\n  - {name: b}\n"))
	before := node(t, l, "a")
	done := do(t, l, control.Action{Kind: control.ActionContact, Node: "a"})
	now := node(t, l, "a")
	if now.Hostname == before.Hostname || !strings.HasSuffix(now.Hostname, "."+before.Hostname) || !strings.Contains(done, now.Hostname) || now.UUID != before.UUID {
		t.Errorf("it is %s with %s now, before %s with %s: %s", now.UUID, now.Hostname, before.UUID, before.Hostname, done)
	}
	if routed(t, l, before.Hostname) || !routed(t, l, now.Hostname) {
		t.Error("the ingress leads the old name, or not the new one")
	}
	await(t, "the verifier to give up a node that it asks for at the old name", func() bool { return node(t, l, "a").State == "failed" })
	wantState(t, l, "b", "attested")
	act(t, l, control.ActionEnrol, "a")
	verify(t, l)
	act(t, l, control.ActionReboot, "a")
	if n := node(t, l, "a"); n.Hostname != now.Hostname {
		t.Errorf("after a reboot it is called %s, before %s", n.Hostname, now.Hostname)
	}
	verify(t, l)
	do(t, l, control.Action{Kind: control.ActionReimage, Node: "a"})
	act(t, l, control.ActionEnrol, "a")
	if n := node(t, l, "a"); n.Hostname != before.Hostname {
		t.Errorf("after its disk was lost it is called %s, want %s again", n.Hostname, before.Hostname)
	}
	verify(t, l)
}
