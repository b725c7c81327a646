package scenario

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/report"
)

const s = time.Second

// observedAt is a history in which node a was so at these times.
func observedAt(polls ...control.Node) *history {
	h := newHistory()
	for i, n := range polls {
		n.Name = "a"
		h.observe(time.Duration(i+1)*s, control.Status{Nodes: []control.Node{n}})
	}
	return h
}

func node(state string, count int) control.Node {
	return control.Node{State: state, AttestationCount: count, UUID: "u"}
}

// What is judged is everything that was seen since a time, and nothing before it.
func TestJudge(t *testing.T) {
	failed := control.Node{State: "failed", Detail: `event "tpm.quote"`, AttestationCount: 3, UUID: "u"}
	h := observedAt(node("enrolled", 0), node("attested", 1), node("attested", 3), failed, node("attested", 4), node("attested", 4))
	for name, c := range map[string]struct {
		w     Condition
		since time.Duration
		ok    bool
		word  string
	}{
		"was so for a moment":           {Condition{State: "failed"}, 0, true, "was failed"},
		"with its reason":               {Condition{State: "failed", Detail: "tpm[.]quote"}, 0, true, "tpm.quote"},
		"with another reason":           {Condition{State: "failed", Detail: "ima"}, 0, false, "was attested"},
		"before the time":               {Condition{State: "failed"}, 4*s + 1, false, "was attested"},
		"at the time":                   {Condition{State: "failed"}, 4 * s, true, "was failed"},
		"what it was before, still":     {Condition{State: "enrolled"}, 1 * s, true, "was enrolled"},
		"what it was before, no longer": {Condition{State: "enrolled"}, 1*s + 1, false, "was attested"},
		"attestations":                  {Condition{Attestations: 4}, 0, true, "had 4 good attestations from 2.0 s on"},
		"attestations since":            {Condition{Attestations: 3}, 2*s + 1, true, "had 3 good attestations from 3.0 s on"},
		"too few attestations":          {Condition{Attestations: 4}, 2*s + 1, false, "has 3 of 4"},
		"attested needs a new one":      {Condition{State: "attested"}, 5*s + 1, false, "has 0 of 1 good attestation since 5.0 s, and was attested at 5.0 s"},
		"attested has a new one":        {Condition{State: "attested"}, 5 * s, true, "had 1 good"},
		"nothing seen since":            {Condition{State: "attested", Detail: "x"}, 7 * s, false, "has 0 of 1"},
		"never seen so late":            {Condition{Detail: "x"}, 7 * s, false, "was not seen"},
	} {
		v, _ := h.view()
		ok, word := c.w.judgeNode(v, "a", c.since)
		if ok != c.ok || !strings.Contains(word, c.word) {
			t.Errorf("%s: %v, %q; want %v, %q", name, ok, word, c.ok, c.word)
		}
	}
}

// Of several nodes each must be so, and the word names those that are not.
func TestJudgeAll(t *testing.T) {
	h := newHistory()
	h.observe(s, control.Status{Nodes: []control.Node{{Name: "a", State: "off"}, {Name: "b", State: "failed"}, {Name: "c", State: "off"}}})
	v, _ := h.view()
	if ok, word := (Condition{Nodes: []string{"a", "b", "c"}, State: "off"}).judge(v, 0); ok || strings.Contains(word, "a was") || !strings.Contains(word, "b was failed") {
		t.Errorf("%v, %q", ok, word)
	}
	if ok, word := (Condition{Nodes: []string{"a", "c"}, State: "off"}).judge(v, 0); !ok || !strings.Contains(word, "a was off") || !strings.Contains(word, "c was off") {
		t.Errorf("%v, %q", ok, word)
	}
}

// An agent that is enrolled anew is counted anew by the verifier, and goes on being counted by the history.
func TestCountGoesOn(t *testing.T) {
	h := observedAt(node("attested", 5), node("enrolled", 0), node("attested", 2), control.Node{State: "attested", AttestationCount: 7, UUID: "another"})
	v, _ := h.view()
	if n := len(v.attestations("a", 0)); n != 14 {
		t.Errorf("%d attestations, want 5, 2 and 7", n)
	}
}

func TestGaps(t *testing.T) {
	h := observedAt(node("attested", 1), node("attested", 2), node("failed", 2), node("refused", 2), node("attested", 3), node("attested", 4))
	g := h.gaps([]string{"a"}, 8*s)[0]
	want := report.Gap{Node: "a", Longest: 3 * s, At: 2 * s, Refusals: 1, Failures: 1, Count: 4}
	if g != want {
		t.Errorf("%+v, want %+v", g, want)
	}
	if g := h.gaps([]string{"a"}, 20*s)[0]; g.Longest != 14*s || g.At != 6*s {
		t.Errorf("to the end: %+v", g)
	}
}

// A node that left is gone, from when on it has no gap; one that joined has one from its first attestation on.
func TestGone(t *testing.T) {
	h := newHistory()
	at := func(when time.Duration, nodes ...control.Node) { h.observe(when, control.Status{Nodes: nodes}) }
	a, b := control.Node{Name: "a", State: "attested", AttestationCount: 1}, control.Node{Name: "b", State: "attested", AttestationCount: 1}
	at(1*s, a)
	at(2*s, a, b)
	at(5*s, b)
	v, _ := h.view()
	if ok, word := (Condition{State: "gone"}).judgeNode(v, "a", 0); !ok || !strings.Contains(word, "at 5.0 s") {
		t.Errorf("a: %v, %q", ok, word)
	}
	if ok, _ := (Condition{State: "gone"}).judgeNode(v, "b", 0); ok {
		t.Error("b is gone too")
	}
	g := h.gaps([]string{"a"}, 9*s)
	if len(g) != 2 || g[0].Longest != 4*s || g[1].Node != "b" || g[1].Longest != 7*s {
		t.Errorf("%+v", g)
	}
	at(6*s, a, b)
	v, _ = h.view()
	if n := len(v.attestations("a", 5*s)); n != 1 {
		t.Errorf("it came back, and was attested %d times", n)
	}
}

// never looks at all that was seen since a time, and needs to have seen something.
func TestNever(t *testing.T) {
	r := &runner{history: observedAt(node("attested", 1), node("failed", 1), node("attested", 2))}
	w := Condition{Nodes: []string{"a"}, State: "failed"}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.never(over, w, 0); err == nil || !strings.Contains(err.Error(), "a was failed at 2.0 s") {
		t.Errorf("what was seen for a moment: %v", err)
	}
	if word, err := r.never(over, w, 2*s+1); err != nil || !strings.Contains(word, "not seen in 1 looks from 2.0 s to 3.0 s") {
		t.Errorf("what was seen before: %q, %v", word, err)
	}
	if _, err := r.never(over, w, 4*s); err == nil || !strings.Contains(err.Error(), "not observed in that time") {
		t.Errorf("a time in which nobody looked: %v", err)
	}
}

// An expectation that is met later is waited for; one that is not tells what was seen instead, and that the lab was silent.
func TestWait(t *testing.T) {
	h := observedAt(node("enrolled", 0))
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("not within a minute"))
	defer cancel()
	go h.observe(h.now(), control.Status{Nodes: []control.Node{{Name: "a", State: "off"}}})
	if _, err := h.wait(ctx, func(v view) (bool, string) { return Condition{State: "off"}.judgeNode(v, "a", 0) }); err != nil {
		t.Error(err)
	}
	h.unasked(errors.New("the lab does not answer"))
	over := errors.New("over")
	ended, end := context.WithCancelCause(t.Context())
	end(over)
	word, err := h.wait(ended, func(v view) (bool, string) { return Condition{State: "failed"}.judgeNode(v, "a", 0) })
	if !errors.Is(err, over) || !strings.Contains(word, "was off") || !strings.Contains(word, "the lab does not answer") {
		t.Errorf("%q, %v", word, err)
	}
}

func TestCounters(t *testing.T) {
	h := newHistory()
	h.add(report.Entry{Kind: report.EntryCounter, Deltas: map[string]uint64{"router dropped-a": 2, "router other": 9}})
	h.add(report.Entry{Kind: report.EntryCounter, Deltas: map[string]uint64{"router dropped-b": 3}})
	v, _ := h.view()
	if ok, word := (Condition{Counter: "router dropped-*", More: 5}).judge(v, 0); !ok || !strings.Contains(word, "dropped-a, router dropped-b grew by 5") {
		t.Errorf("%v, %q", ok, word)
	}
	if ok, _ := (Condition{Counter: "router dropped-*", More: 6}).judge(v, 0); ok {
		t.Error("grew by more than it did")
	}
}

// Notices are noted once each.
func TestNotices(t *testing.T) {
	h := newHistory()
	list := []control.Notice{{Node: "a", Receiver: "webhook", Event: "pcr_validation.invalid_pcr_0"}}
	h.notices(list)
	list = append(list, control.Notice{Node: "b", Receiver: "a", Event: "other"})
	h.notices(list)
	list[1].Actions = []control.ActionRun{{Name: "first", OK: true}, {Name: "second", Problem: "exit status 3"}}
	h.notices(list)
	h.notices(list)
	v, _ := h.view()
	if len(v.entries) != 4 || v.entries[3].Detail != "other; the action second failed: exit status 3" {
		t.Errorf("%+v, want 4 entries", v.entries)
	}
	for _, c := range []struct {
		n  Notice
		ok bool
	}{{Notice{About: "a"}, true}, {Notice{About: "a", Event: "^pcr_"}, true}, {Notice{About: "a", Receiver: "b"}, false}, {Notice{About: "b", Receiver: "a"}, true}, {Notice{About: "c"}, false},
		{Notice{About: "b", Receiver: "a", Event: "^other$", Action: "first"}, true}, {Notice{About: "b", Action: "second"}, false}, {Notice{About: "a", Action: "first"}, false}} {
		if ok, word := (Condition{Notice: &c.n}).judge(v, 0); ok != c.ok {
			t.Errorf("%+v: %v, %s", c.n, ok, word)
		}
	}
}
