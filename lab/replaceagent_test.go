package lab_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/spec"
)

// program is keylab's own agent as a program, which keeps its keys in a folder of its own, as another implementation would; of "" where keylab's own keeps them.
func program(t *testing.T, folder string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "agent")
	text := fmt.Sprintf("#!/bin/sh\nexport KEYLIME_AGENT_KEYLIME_DIR=\"$KEYLIME_AGENT_KEYLIME_DIR/%s\"\nmkdir -p \"$KEYLIME_AGENT_KEYLIME_DIR\"\nexec '%s' in-container agent\n", folder, self)
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// A node's agent is replaced by a program and that by keylab's own again, and whoever looks at the lab or brings it up again knows.
func TestAgentReplaced(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"pull", "push"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s := quick(t, "name: replaced-"+mode+"\nnodes: 2\nima: {enabled: true}\nkeylime: {mode: "+mode+"}\n")
			s.Keylime.QuoteInterval = spec.Duration(1e9)
			l := up(t, s)
			before, path := node(t, l, "node-1"), program(t, "other")
			file := read(t, l.Dir().Spec())
			replaced := control.Action{Kind: control.ActionReplaceAgent, Node: "node-1", AgentKind: "binary", AgentPath: path}

			// Its AK is another one, which the registrar takes only when it has forgotten the old one.
			if done := do(t, l, replaced); !strings.Contains(done, "403") || !strings.Contains(done, "keylab node enrol node-1") {
				t.Errorf("replaced: %s", done)
			}
			if n := node(t, l, "node-1"); n.State != "agent dead" || !strings.Contains(n.Detail, "403") {
				t.Errorf("it is %s: %s", n.State, n.Detail)
			}
			act(t, l, control.ActionEnrol, "node-1")
			verify(t, l)
			wantAgent(t, l, "binary", path)
			if n := node(t, l, "node-1"); n.UUID != before.UUID || n.Hostname != before.Hostname || n.EKSerial != before.EKSerial || n.Address != before.Address {
				t.Errorf("it is another node: %+v, before %+v", n, before)
			}
			if done := do(t, l, replaced); !strings.Contains(done, "already") {
				t.Errorf("replaced by what it has: %s", done)
			}
			act(t, l, control.ActionReboot, "node-1")
			if mode == "push" { // the verifier goes on from the PCR 10 that it knew (docs/measurements.md)
				act(t, l, control.ActionEnrol, "node-1")
			}
			verify(t, l)

			if _, err := l.Down(context.Background()); err != nil {
				t.Fatal(err)
			}
			kept, err := spec.Decode(l.Dir().Spec(), []byte(read(t, l.Dir().Spec())))
			if err != nil {
				t.Fatal(err)
			}
			l = up(t, kept)
			wantAgent(t, l, "binary", path)
			verify(t, l)

			do(t, l, control.Action{Kind: control.ActionReplaceAgent, Node: "node-1", AgentKind: "go"})
			act(t, l, control.ActionEnrol, "node-1")
			verify(t, l)
			wantAgent(t, l, "go", "")
			if now := read(t, l.Dir().Spec()); now != file {
				t.Errorf("lab.yaml is not as it was before:\n%s\nbefore:\n%s", now, file)
			}
		})
	}
}

// A program that is no agent leaves the node with the agent that it had; and one with the keys of the agent before needs no new registration.
func TestAgentReplacedByWhat(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, "name: replaced-by\nnodes: 1\n"))
	before := read(t, l.Dir().Spec())
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/nowhere/agent": "no such file", plain: "is not an executable file", "/bin/false": "it runs the agent again that it had, for the other one did not start",
	} {
		_, err := l.Act(t.Context(), control.Action{Kind: control.ActionReplaceAgent, Node: "node-1", AgentKind: "binary", AgentPath: path})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
		verify(t, l)
		wantAgent(t, l, "go", "")
	}
	if now := read(t, l.Dir().Spec()); now != before {
		t.Errorf("lab.yaml changed:\n%s\nbefore:\n%s", now, before)
	}
	path := program(t, "")
	if done := do(t, l, control.Action{Kind: control.ActionReplaceAgent, Node: "node-1", AgentKind: "binary", AgentPath: path}); !strings.Contains(done, "has registered") {
		t.Errorf("one with the same AK: %s", done)
	}
	act(t, l, control.ActionEnrol, "node-1") // the verifier knows the certificate of the one before
	verify(t, l)
}

// wantAgent looks which agent the plan of a lab has on node-1.
func wantAgent(t *testing.T, l *lab.Lab, kind, path string) {
	t.Helper()
	p, err := l.Planned()
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := p.Node("node-1"); n.Agent.Kind != kind || n.Agent.Path != path {
		t.Errorf("the plan has the agent %s %q, want %s %q", n.Agent.Kind, n.Agent.Path, kind, path)
	}
}
