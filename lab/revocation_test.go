package lab_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
)

// The agents run the actions that came with their payloads when they are told, and the lab shows how each ended; whoever has no payload has them too.
func TestRevocationActions(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, `name: actions
payload: {inline: something}
keylime:
  revocation:
    agent: true
    actions:
      - {name: note.sh, inline: "#!/bin/sh\ncat \"$1\" >> noted\n"}
      - {name: fail.sh, inline: "#!/bin/sh\necho there is no one to tell >&2\nexit 3\n"}
      - {name: never.sh, inline: "#!/bin/sh\ntouch never\n"}
nodes: [{name: a}, {name: b}, {name: none, payload: {none: true}}]
ima: {enabled: true}
`))
	change(t, l, control.Measurement{Kind: control.TamperPCR, Node: "a"})
	want := []control.ActionRun{{Name: "note.sh", OK: true}, {Name: "fail.sh", Problem: "exit status 3: there is no one to tell"}}
	for _, receiver := range []string{"b", "none"} {
		var told control.Notice
		await(t, "the actions of "+receiver+" to end", func() bool {
			list := notices(t, l)
			i := slices.IndexFunc(list, func(n control.Notice) bool { return n.Receiver == receiver && len(n.Actions) > 0 })
			if i >= 0 {
				told = list[i]
			}
			return i >= 0
		})
		if !reflect.DeepEqual(told.Actions, want) || told.Node != "a" || !told.Signed {
			t.Errorf("%s: %+v, want %+v", receiver, told, want)
		}
		folder := l.Dir().Agent(receiver)
		noted, err := os.ReadFile(filepath.Join(folder, "noted"))
		if err != nil || !strings.Contains(string(noted), node(t, l, "a").UUID) || !json.Valid(noted) {
			t.Errorf("%s noted %q, %v", receiver, noted, err)
		}
		if _, err := os.Stat(filepath.Join(folder, "never")); err == nil {
			t.Errorf("%s went on after an action that failed", receiver)
		}
	}
	verify(t, l, of([]string{"a"}, "ima-list", "attested")...)
}

// The verifier tells the lab's receiver and all agents of one that it no longer trusts; its word is signed, where the tenant gave it the key. Payloads are
// delivered all the same.
func TestRevocation(t *testing.T) {
	t.Parallel()
	s := quick(t, "name: revocation\npayload: {inline: "+quoted(secretOfAll)+"}\nkeylime: {revocation: {agent: true, webhook: true}}\n"+
		"nodes:\n  - {name: a}\n  - {name: b}\n  - {name: none, payload: {none: true}}\n")
	l := up(t, s)
	r := verify(t, l)
	wantEvidence(t, r, "payload-delivered a", "39 bytes, as was meant for this node")
	wantEvidence(t, r, "payload-withheld none", "none is meant for it, and nothing is there")
	wantNoSecret(t, l.Dir().Path, l.Dir().Payloads())
	if list := notices(t, l); len(list) != 0 {
		t.Errorf("notices before anything went wrong: %+v", list)
	}

	policy := `{"23":["` + strings.Repeat("ab", 32) + `"]}` // the PCR is zero
	distrust := func(how ...string) {
		t.Helper()
		args := append([]string{"-c", "update", "-u", node(t, l, "a").UUID, "--tpm_policy", policy}, how...)
		cmd, err := l.TenantCommand(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("enrol with a policy that the node does not keep to: %v\n%s", err, out)
		}
		await(t, "the verifier to find the quote bad", func() bool { return node(t, l, "a").State == fleet.StateFailed })
	}
	of := func(receiver string) func() bool {
		return func() bool {
			return slices.ContainsFunc(notices(t, l), func(n control.Notice) bool { return n.Receiver == receiver })
		}
	}

	distrust("--cert", l.Dir().Revocation())
	await(t, "the receiver to be told", of(control.ReceiverWebhook))
	await(t, "b to be told", of("b"))
	await(t, "none to be told", of("none"))
	for _, n := range notices(t, l) {
		if n.Node != "a" || n.Agent != node(t, l, "a").UUID || n.Type != "revocation" || n.Severity != "emergency" ||
			!strings.HasPrefix(n.Event, "tpm_policy.") && !strings.Contains(n.Event, "pcr") || !n.Signed || n.Problem != "" || n.Received.IsZero() {
			t.Errorf("told: %+v", n)
		}
	}

	told := len(notices(t, l))
	distrust() // without the key for notices
	await(t, "three more to be told", func() bool { return len(notices(t, l)) >= told+3 })
	for _, n := range notices(t, l)[told:] {
		if n.Node != "a" || n.Signed || !strings.Contains(n.Problem, "not signed") {
			t.Errorf("told without a signature: %+v", n)
		}
	}
	act(t, l, control.ActionEnrol, "a")
	verify(t, l)

	if _, err := up(t, quick(t, "name: quiet\nnodes: 1\n")).Notices(t.Context()); err == nil || !strings.Contains(err.Error(), "tells nobody") {
		t.Errorf("notices of a lab whose verifier tells nobody: %v", err)
	}
}

func notices(t *testing.T, l *lab.Lab) []control.Notice {
	t.Helper()
	list, err := l.Notices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}
