package rotate_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/rotate"
)

func run(t *testing.T, f *fake, o rotate.Options) rotate.Result {
	t.Helper()
	o.Poll = time.Millisecond
	r, err := rotate.Run(t.Context(), f, o)
	if err != nil {
		t.Fatalf("%+v: %v", o, err)
	}
	return r
}

// wantOver wants every node that is not excepted to be on a CA, and no other CA to be trusted.
func wantOver(t *testing.T, f *fake, name string, except ...string) {
	t.Helper()
	for _, m := range f.nodes {
		if over := m.ca == name && m.registered == name && m.enrolled == name; over == slices.Contains(except, m.name) {
			t.Errorf("%+v, want it on %s: %v", m, name, !over)
		}
	}
	cas, err := f.set.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, ca := range cas {
		if ca.Trusted() != (ca.Name == name) || ca.Active != (ca.Name == name) {
			t.Errorf("%s: active %v, trusted %v", ca.Name, ca.Active, ca.Trusted())
		}
	}
}

// over tells whether nothing is left to do on the way to a CA.
func (f *fake) over(name string) bool {
	return !f.trusts(authority.First) && !slices.ContainsFunc(f.nodes, func(m *machine) bool { return m.ca != name || m.registered != name || m.enrolled != name })
}

// What each strategy does, in which order.
func TestStrategies(t *testing.T) {
	want := map[rotate.Strategy]string{
		rotate.Overlap: "new-ca ca-2, trust ca-2, activate ca-2, " +
			"issue ca-2a, forget a, restart-agent a, enrol a, issue ca-2b, forget b, restart-agent b, enrol b, distrust ca-1",
		rotate.AtOnce: "new-ca ca-2, trust ca-2, activate ca-2, distrust ca-1, " +
			"issue ca-2a, issue ca-2b, forget a, restart-agent a, enrol a, forget b, restart-agent b, enrol b",
		rotate.Emergency: "distrust ca-1, forget a, forget b, new-ca ca-2, trust ca-2, activate ca-2, " +
			"issue ca-2a, issue ca-2b, restart-agent a, enrol a, restart-agent b, enrol b",
	}
	for _, s := range rotate.Strategies {
		t.Run(string(s), func(t *testing.T) {
			f := newFake(t, "a", "b")
			plan := run(t, f, rotate.Options{Strategy: s, DryRun: true})
			if len(f.calls) > 0 || plan.Passed() || len(plan.Commands) == 0 {
				t.Errorf("a dry run did %v, and passed: %v", f.calls, plan.Passed())
			}
			var told []rotate.Command
			r := run(t, f, rotate.Options{Strategy: s, Parallel: 1, OnCommand: func(c rotate.Command) { told = append(told, c) }})
			if got := strings.Join(f.calls, ", "); got != want[s] {
				t.Errorf("did %s\nwant %s", got, want[s])
			}
			wantOver(t, f, "ca-2")
			if !r.Passed() || r.To != "ca-2" || !slices.Equal(r.From, []string{authority.First}) || len(r.Refused) > 0 || len(r.LeftOut) > 0 {
				t.Errorf("%+v", r)
			}
			if len(r.Gaps) != 2 || r.Gaps[0].Node != "a" || r.Gaps[0].Longest <= 0 {
				t.Errorf("gaps: %+v", r.Gaps)
			}
			if still := strings.Join(r.StillTrusted, " "); (still == "a b") != (s == rotate.Emergency) {
				t.Errorf("still trusted: %q", still)
			}
			// The runbook of the dry run is that of the real one.
			if len(plan.Commands) != len(r.Commands) || len(told) != len(r.Commands) {
				t.Fatalf("%d commands were planned, %d done, %d told", len(plan.Commands), len(r.Commands), len(told))
			}
			for i, c := range r.Commands {
				if p := plan.Commands[i]; p.What != c.What || !slices.Equal(p.Run, c.Run) || c.Number != i+1 || c.Status != rotate.Done || p.Status != rotate.Planned || told[i].Number != i+1 {
					t.Errorf("planned %+v\ndone    %+v", p, c)
				}
			}
			// Nothing is left to do: the next one goes on to another CA.
			if next := run(t, f, rotate.Options{Strategy: s}); next.To != "ca-3" || !next.Passed() {
				t.Errorf("the next rotation went to %s: %+v", next.To, next.Proof)
			}
			wantOver(t, f, "ca-3")
			var out bytes.Buffer
			if err := json.NewEncoder(&out).Encode(r); err != nil || !strings.Contains(out.String(), `"passed":true,"proof":{"lab":"fake"`) {
				t.Errorf("as JSON: %v, %s", err, out.String())
			}
		})
	}
}

// Stopped at any command, a rotation leaves a lab that another one, of any strategy, brings to the same CA.
func TestInterrupted(t *testing.T) {
	for _, s := range rotate.Strategies {
		for _, second := range rotate.Strategies {
			for at := 1; ; at++ {
				f := newFake(t, "a", "b")
				ctx, cancel := context.WithCancel(t.Context())
				count := 0
				r, err := rotate.Run(ctx, f, rotate.Options{Strategy: s, Parallel: 1, Poll: time.Millisecond, OnCommand: func(rotate.Command) {
					if count++; count == at {
						cancel()
					}
				}})
				cancel()
				if count < at {
					if err != nil || !r.Passed() {
						t.Errorf("%s, not interrupted: %v", s, err)
					}
					break
				}
				if !errors.Is(err, context.Canceled) || r.Passed() {
					t.Errorf("%s, interrupted after %d: %v", s, at, err)
				}
				const want = "ca-2"
				due := f.over(want) // only the proof was missing
				f.calls = nil
				again := run(t, f, rotate.Options{Strategy: second})
				if again.To != want || !again.Passed() || again.ProofDue != due {
					t.Errorf("%s, interrupted after %d, then %s: to %s, due is the proof alone: %v, %+v", s, at, second, again.To, again.ProofDue, again.Proof.Checks)
				}
				if due && len(f.calls) > 0 {
					t.Errorf("%s, interrupted after %d, then %s: it did %v, though all was done", s, at, second, f.calls)
				}
				if next := run(t, f, rotate.Options{DryRun: true}); next.To != "ca-3" {
					t.Errorf("%s, interrupted after %d, then %s, which was proved: the next one goes to %s", s, at, second, next.To)
				}
				wantOver(t, f, want)
			}
		}
	}
}

// A node that cannot be brought over is left where it is; the old CA stays trusted in an overlap; another rotation goes on with that node alone.
func TestNodeFails(t *testing.T) {
	f := newFake(t, "a", "b", "c")
	f.node("b").off = true
	r := run(t, f, rotate.Options{})
	if r.Passed() || !f.trusts(authority.First) {
		t.Errorf("passed %v with a node that is off, the old CA trusted: %v", r.Passed(), f.trusts(authority.First))
	}
	if i := slices.IndexFunc(r.Commands, func(c rotate.Command) bool { return c.Node == "b" }); i < 0 || r.Commands[i].Status != rotate.Failed || !strings.Contains(r.Commands[i].Error, "it is off") {
		t.Errorf("commands: %+v", r.Commands)
	}
	f.node("b").off = false
	f.calls = nil
	r = run(t, f, rotate.Options{})
	if got, want := strings.Join(f.calls, ", "), "issue ca-2b, forget b, restart-agent b, enrol b, distrust ca-1"; !r.Passed() || got != want {
		t.Errorf("passed %v, did %s, want %s", r.Passed(), got, want)
	}
	wantOver(t, f, "ca-2")
}

// A refusal is counted against the node, and the proof fails.
func TestRefused(t *testing.T) {
	f := newFake(t, "a", "b")
	f.fail = func(what, node string) error {
		if what == control.ActionEnrol && node == "a" {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.node("a").refused = true
			return errors.New("the tenant refused a")
		}
		return nil
	}
	r := run(t, f, rotate.Options{Strategy: rotate.AtOnce})
	if r.Passed() || len(r.Refused) != 1 || r.Refused[0] != (rotate.Refusal{Node: "a", By: "tenant", Message: "No Root CA matched"}) || r.Gaps[0].Refusals != 1 {
		t.Errorf("refused: %+v, gaps %+v", r.Refused, r.Gaps)
	}
}

// Whose certificate no record vouches for gets no new one, and is trusted no more, whatever the strategy; a CA whose key is stolen is never gone to.
func TestThief(t *testing.T) {
	for _, s := range rotate.Strategies {
		f := newFake(t, "a", "thief", "c", "revoked")
		f.node("thief").standing = control.EKUnrecorded
		f.node("revoked").standing = control.EKRevoked
		if err := f.set.MarkLeaked(authority.First); err != nil {
			t.Fatal(err)
		}
		if _, err := rotate.Run(t.Context(), f, rotate.Options{Strategy: s, To: authority.First}); err == nil || !strings.Contains(err.Error(), "in the wrong hands") {
			t.Errorf("%s to the stolen CA: %v", s, err)
		}
		r := run(t, f, rotate.Options{Strategy: s})
		wantOver(t, f, "ca-2", "thief", "revoked")
		if !r.Passed() || len(r.LeftOut) != 2 || r.LeftOut[0].Node != "thief" || !r.LeftOut[0].Expelled || f.node("thief").enrolled != "" || f.node("revoked").enrolled != "" {
			t.Errorf("%s: passed %v, left out %+v, %+v", s, r.Passed(), r.LeftOut, r.Proof.Checks)
		}
		// A thief who is still there does not make the rotation look unfinished.
		if next := run(t, f, rotate.Options{Strategy: s}); next.To != "ca-3" {
			t.Errorf("%s: the next rotation went to %s", s, next.To)
		}
	}
	// A thief whom somebody enrols again meanwhile is not passed over.
	f := newFake(t, "a", "thief")
	f.node("thief").standing = control.EKUnrecorded
	r := run(t, f, rotate.Options{OnCommand: func(c rotate.Command) {
		if strings.HasPrefix(c.What, "distrust") {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.node("thief").enrolled = authority.First
		}
	}})
	if r.Passed() {
		t.Error("the proof holds although the verifier trusts the thief")
	}
}

// Several nodes at once are no more than asked for, and the runbook has them in order.
func TestParallel(t *testing.T) {
	names := []string{"a", "b", "c", "d", "e", "f"}
	f := newFake(t, names...)
	gate := make(chan struct{})
	f.fail = func(what, node string) error {
		if what == control.EKIssue {
			select { // two are to be here at the same time
			case gate <- struct{}{}:
			case <-gate:
			case <-t.Context().Done():
			}
		}
		return nil
	}
	r := run(t, f, rotate.Options{Strategy: rotate.AtOnce, Parallel: 2})
	if f.limit != 2 || !r.Passed() {
		t.Errorf("%d at once, passed %v", f.limit, r.Passed())
	}
	var issued []string
	for _, c := range r.Commands {
		if strings.HasPrefix(c.What, "give the EK of") {
			issued = append(issued, c.Node)
		}
	}
	if !slices.Equal(issued, names) {
		t.Errorf("the runbook's order: %v", issued)
	}
}

func TestUnknownStrategy(t *testing.T) {
	if _, err := rotate.Run(t.Context(), newFake(t, "a"), rotate.Options{Strategy: "slowly"}); err == nil || !strings.Contains(err.Error(), "there is no strategy") {
		t.Error(err)
	}
}
