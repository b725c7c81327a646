package lab_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
)

// A node is stopped, started, rebooted and crashed, and gets another TPM: what it is afterwards, and what Keylime makes of it.
func TestNodes(t *testing.T) {
	t.Parallel()
	s := quick(t, "name: machines\nnodes:\n  - {name: a}\n  - {name: b}\n  - {name: c, tpm: {seed: the same each time}}\n")
	l := up(t, s)
	attested(t, l, 3)
	uuids, serials := identities(status(t, l))

	t.Run("stopped and started", func(t *testing.T) {
		act(t, l, control.ActionStop, "b")
		settled(t, l, []string{"b"})
		wantState(t, l, "b", "off")
		verify(t, l, append(of([]string{"b"}, "uuid", "ek-from-tpm", "ek-certificate", "certificate", "quote", "attested"),
			"open b → registrar:8890/tcp", "drops-counted dropped-cluster-to-services")...)
		for _, kind := range []string{control.ActionReboot, control.ActionCrash, control.ActionReactivate, control.ActionEnrol} {
			if _, err := l.Act(t.Context(), control.Action{Kind: kind, Node: "b"}); err == nil || !strings.Contains(err.Error(), "it is off: `keylab node start b` starts it") {
				t.Errorf("%s of a node that is off: %v", kind, err)
			}
		}
		act(t, l, control.ActionStart, "b")
		act(t, l, control.ActionReactivate, "b")
		verify(t, l)
	})
	t.Run("rebooted", func(t *testing.T) {
		before := clock(t, l, "b")
		act(t, l, control.ActionReboot, "b")
		after := clock(t, l, "b")
		if after["reset_count"] != before["reset_count"]+1 || after["clock"] < before["clock"] || after["safe"] != 1 {
			t.Errorf("the TPM's clock after a reboot: %v, before %v", after, before)
		}
		verify(t, l)
	})
	t.Run("rebooted, and its agent restarted, at once", func(t *testing.T) {
		var all errgroup.Group
		for range 3 {
			all.Go(func() error {
				_, err := l.Act(t.Context(), control.Action{Kind: control.ActionReboot, Node: "b"})
				return err
			})
			all.Go(func() error {
				_, err := l.Fault(t.Context(), control.Fault{Kind: control.FaultAgentRestart, Nodes: []string{"b"}})
				return err
			})
		}
		if err := all.Wait(); err != nil {
			t.Error(err)
		}
		verify(t, l)
	})
	t.Run("crashed", func(t *testing.T) {
		before := clock(t, l, "b")
		act(t, l, control.ActionCrash, "b")
		if after := clock(t, l, "b"); after["clock"] >= before["clock"] {
			t.Errorf("the TPM's clock after a power cut: %v, before %v", after, before)
		}
		await(t, "the verifier to find that the clock went back", func() bool { return node(t, l, "b").State == "failed" })
		act(t, l, control.ActionEnrol, "b")
		verify(t, l)
	})
	if u, e := identities(status(t, l)); u["b"] != uuids["b"] || e["b"] != serials["b"] {
		t.Errorf("b is another node now: %s and %s, before %s and %s", u["b"], e["b"], uuids["b"], serials["b"])
	}
	t.Run("mistakes", func(t *testing.T) {
		for want, a := range map[string]control.Action{
			`the lab has no node "d"; it has a, b, c`:                                                        {Kind: control.ActionStop, Node: "d"},
			`there is no action "fly"; there are stop, start, reboot, crash, replace-tpm, reactivate, enrol`: {Kind: "fly", Node: "a"},
		} {
			if _, err := l.Act(t.Context(), a); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %q", a, err, want)
			}
		}
	})
	t.Run("another TPM", func(t *testing.T) {
		for _, n := range []string{"a", "c"} {
			act(t, l, control.ActionReplaceTPM, n)
			wantState(t, l, n, "registered")
			act(t, l, control.ActionEnrol, n)
		}
		verify(t, l)
		attested(t, l, 3)
		u, e := identities(status(t, l))
		for _, n := range []string{"a", "c"} {
			if u[n] == uuids[n] || e[n] == serials[n] {
				t.Errorf("%s has the TPM that it had: UUID %s, EK certificate %s", n, u[n], e[n])
			}
		}
		if u["b"] != uuids["b"] {
			t.Errorf("b has another UUID: %s", u["b"])
		}
		if _, err := l.Down(context.Background()); err != nil {
			t.Fatal(err)
		}
		again := up(t, s)
		verify(t, again)
		if now, _ := identities(status(t, again)); now["a"] != u["a"] || now["b"] != u["b"] || now["c"] != u["c"] {
			t.Errorf("UUIDs of the next up: %v, before %v", now, u)
		}
	})
}

func act(t *testing.T, l *lab.Lab, kind, node string) string {
	t.Helper()
	// What it waits for, such as the verifier's trust, may never come.
	ctx, cancel := context.WithTimeoutCause(t.Context(), 2*time.Minute, fmt.Errorf("two minutes were not enough to %s %s", kind, node))
	defer cancel()
	done, err := l.Act(ctx, control.Action{Kind: kind, Node: node})
	if err != nil || done == "" {
		t.Fatalf("%s %s: %q, %v, %v", kind, node, done, err, context.Cause(ctx))
	}
	return done
}

func node(t *testing.T, l *lab.Lab, name string) control.Node {
	t.Helper()
	for _, n := range status(t, l).Nodes {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("no node %s in the status", name)
	return control.Node{}
}

func wantState(t *testing.T, l *lab.Lab, name, state string) {
	t.Helper()
	if n := node(t, l, name); n.State != state {
		t.Errorf("%s is %s (%s), want %s", name, n.State, n.Detail, state)
	}
}

// clock reads a TPM's clock (ms), reset count and whether the clock is safe (1), by tpm2_readclock.
func clock(t *testing.T, l *lab.Lab, node string) map[string]int {
	t.Helper()
	cmd, err := l.TPMCommand(t.Context(), node, "tpm2_readclock")
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("tpm2_readclock on %s: %v\n%s", node, err, out)
	}
	values := map[string]int{}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if value == "yes" {
			value = "1"
		}
		if n, err := strconv.Atoi(value); err == nil {
			values[name] = n
		}
	}
	return values
}
