package lab_test

import (
	"errors"
	"strings"
	"testing"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/report"
)

// Parts of a lab are killed, one after the other, as by the kernel when memory runs out: status says which, verify fails
// and says which, and when at last the supervisor is killed, nothing is left of the lab.
func TestKilled(t *testing.T) {
	t.Parallel()
	s := quick(t, "name: killed\nnodes: 2\n")
	l := up(t, s)
	pid := status(t, l).PID
	all := labProcesses(t, pid)
	nothingOnHost(t, l.Dir().Key(), true)

	t.Run("swtpm", func(t *testing.T) {
		kill9(t, find(t, all, "swtpm", "tpm/node-2")...)
		s := degraded(t, l, func(s lab.Status) bool { return s.Nodes[1].State == "tpm dead" })
		if n := s.Nodes[1]; n.Name != "node-2" || n.State != "tpm dead" || !strings.Contains(n.Detail, "killed") {
			t.Errorf("%+v", n)
		}
		if n := s.Nodes[0]; n.State != "attested" {
			t.Errorf("%s suffers too: %s %s", n.Name, n.State, n.Detail)
		}
		verify(t, l, of([]string{"node-2"}, "uuid", "ek-from-tpm", "ek-certificate", "quote", "attested")...)
	})
	t.Run("registrar", func(t *testing.T) {
		kill9(t, find(t, all, "keylime_registrar")...)
		s := degraded(t, l, func(s lab.Status) bool { return component(s, "registrar").State == "dead" })
		if c := component(s, "registrar"); !strings.Contains(c.Detail, "signal: killed") || !strings.Contains(c.Detail, "keylime_registrar") {
			t.Errorf("how it ended is not said: %+v", c)
		}
		names(t, failed(t, l), "registered node-1", "registrar")
	})
	t.Run("verifier", func(t *testing.T) {
		kill9(t, find(t, all, "keylime_verifier")...)
		s := degraded(t, l, func(s lab.Status) bool { return component(s, "verifier").State == "dead" })
		if c := component(s, "verifier"); !strings.Contains(c.Detail, "signal: killed") || !strings.Contains(c.Detail, "keylime_verifier") {
			t.Errorf("how it ended is not said: %+v", c)
		}
		names(t, failed(t, l), "attested node-1", "verifier")
	})
	t.Run("supervisor", func(t *testing.T) {
		all := labProcesses(t, pid)
		kill9(t, all[1])
		awaitGone(t, all...)
		nothingOnHost(t, l.Dir().Key(), false)
		if _, err := l.Status(t.Context()); !errors.Is(err, lab.ErrNotRunning) {
			t.Errorf("status: %v, want ErrNotRunning", err)
		}
		if was, err := l.Down(t.Context()); was || err != nil {
			t.Errorf("down of a lab that was killed: was running %v, %v", was, err)
		}
	})
	t.Run("up again", func(t *testing.T) {
		before := issuer(t, l)
		l := up(t, s)
		attested(t, l, 2)
		if after := issuer(t, l); before != after {
			t.Errorf("the EK CA is another one after a crash: %s, was %s", after, before)
		}
		all := labProcesses(t, status(t, l).PID)
		kill9(t, find(t, all, "forkserver.py")...) // the services end with it, but can be started again
		s := degraded(t, l, func(s lab.Status) bool {
			return component(s, "registrar").State == "dead" && component(s, "verifier").State == "dead"
		})
		if c := component(s, "verifier"); !strings.Contains(c.Detail, "fork server has ended: signal: killed") {
			t.Errorf("how it ended is not said: %+v", c)
		}
		for _, service := range []string{"registrar", "verifier"} {
			mend(t, l, control.Fault{Kind: control.FaultServiceKilled, Component: service})
		}
		attested(t, l, 2)
		all = labProcesses(t, status(t, l).PID)
		kill9(t, all[0]) // the sandbox' first process
		awaitGone(t, all...)
		nothingOnHost(t, l.Dir().Key(), false)
	})
}

// issuer is the fingerprint of the CA that issues the lab's EK certificates.
func issuer(t *testing.T, l *lab.Lab) string {
	t.Helper()
	ca, err := ekca.Open(l.Dir().EKCA())
	if err != nil {
		t.Fatal(err)
	}
	return ekca.Fingerprint(ca.Chain()[0])
}

// degraded waits until a lab knows what has happened to it.
func degraded(t *testing.T, l *lab.Lab, known func(lab.Status) bool) lab.Status {
	t.Helper()
	var s lab.Status
	await(t, "the lab's status to say what was killed", func() bool {
		s = status(t, l)
		return known(s)
	})
	if s.State != "degraded" {
		t.Errorf("the lab is %s, want degraded", s.State)
	}
	return s
}

func component(s lab.Status, name string) control.Component {
	for _, c := range s.Components {
		if c.Name == name {
			return c
		}
	}
	return control.Component{}
}

func failed(t *testing.T, l *lab.Lab) report.Result {
	t.Helper()
	r, err := l.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.Passed() {
		t.Error("verify passes")
	}
	return r
}

// names wants a check to have failed with a message that holds a word.
func names(t *testing.T, r report.Result, check, word string) {
	t.Helper()
	for _, c := range r.Checks {
		if c.ID+" "+c.Subject == check {
			if c.Passed() || !strings.Contains(c.Error, word) {
				t.Errorf("%s: %s, %q; want a failure that names the %s", check, c.Status, c.Error, word)
			}
			return
		}
	}
	t.Errorf("no check %s", check)
}
