package scenario

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/report"
)

// stateGone is of a node that was there, and that the lab does not have any more.
const stateGone = "gone"

// judge says whether the history meets the condition, and by what evidence, or what it shows instead.
func (w Condition) judge(v view, since time.Duration) (bool, string) {
	switch {
	case len(w.Nodes) > 0:
		return each(w.Nodes, func(n string) (bool, string) { return w.judgeNode(v, n, since) })
	case w.Component != "":
		return w.judgeState(v, report.EntryLab, w.Component, since)
	case w.Notice != nil:
		return w.judgeNotice(v, since)
	}
	return w.judgeCounter(v, since)
}

// each joins what is said of several; all must be so.
func each(names []string, judge func(string) (bool, string)) (bool, string) {
	all := true
	var words []string
	for _, n := range names {
		ok, word := judge(n)
		if all && !ok {
			all, words = false, nil // what holds does not matter any more
		}
		if ok == all {
			words = append(words, n+" "+word)
		}
	}
	return all, strings.Join(words, "; ")
}

func (w Condition) judgeNode(v view, node string, since time.Duration) (bool, string) {
	want := w.Attestations
	if want == 0 && w.State == fleet.StateAttested {
		want = 1 // an old one proves nothing
	}
	word := ""
	if want > 0 {
		times := v.attestations(node, since)
		if len(times) < want {
			now := "was not seen"
			if seen := v.states(report.EntryState, node, 0); len(seen) > 0 {
				now = seen[len(seen)-1].String()
			}
			return false, fmt.Sprintf("has %d of %s since %s, and %s", len(times), plural(want, "good attestation"), seconds(since), now)
		}
		word = fmt.Sprintf("had %s from %s on", plural(len(times), "good attestation"), seconds(times[0]))
		if w.State == "" && w.Detail == "" || w.State == fleet.StateAttested && w.Detail == "" {
			return true, word
		}
		word += ", and "
	}
	ok, state := w.judgeState(v, report.EntryState, node, since)
	return ok, word + state
}

func (w Condition) judgeState(v view, kind report.EntryKind, name string, since time.Duration) (bool, string) {
	seen := v.states(kind, name, since)
	if len(seen) == 0 {
		return false, "was not seen since " + seconds(since)
	}
	for _, o := range seen {
		if (w.State == "" || o.state == w.State) && found(w.Detail, o.detail) {
			return true, o.String()
		}
	}
	return false, seen[len(seen)-1].String()
}

func (o observed) String() string {
	text := "was " + o.state
	if first, _, _ := strings.Cut(o.detail, "\n"); first != "" { // of a service that ended, its log comes after it
		text += " (" + first + ")"
	}
	return text + " at " + seconds(o.at)
}

// found tells whether a regular expression, which has been checked, is in the text.
func found(pattern, text string) bool {
	return pattern == "" || regexp.MustCompile(pattern).MatchString(text)
}

func (w Condition) judgeNotice(v view, since time.Duration) (bool, string) {
	last := "there was none"
	for _, e := range v.entries {
		if e.Kind != report.EntryNotice || e.At < since {
			continue
		}
		last = fmt.Sprintf("about %s at %s: %s, at %s", e.Node, e.State, e.Detail, seconds(e.At))
		event, action, _ := strings.Cut(e.Detail, actionMark)
		if e.Node == w.Notice.About && (w.Notice.Receiver == "" || w.Notice.Receiver == e.State) && found(w.Notice.Event, event) &&
			(w.Notice.Action == "" || action == wellEnded(w.Notice.Action)) {
			return true, last
		}
	}
	return false, "of notices, " + last
}

func (w Condition) judgeCounter(v view, since time.Duration) (bool, string) {
	var grew uint64
	var which []string
	for _, e := range v.entries {
		if e.Kind != report.EntryCounter || e.At < since {
			continue
		}
		for name, by := range e.Deltas {
			if matches(w.Counter, name) {
				grew += by
				if !slices.Contains(which, name) {
					which = append(which, name)
				}
			}
		}
	}
	slices.Sort(which)
	word := fmt.Sprintf("%s grew by %d", orThe(strings.Join(which, ", "), w.Counter), grew)
	return grew >= uint64(max(1, w.More)), word
}

func orThe(names, pattern string) string {
	if names == "" {
		return pattern
	}
	return names
}

// expect waits until a condition is met.
func (r *runner) expect(ctx context.Context, w Condition, since time.Duration) (string, error) {
	word, err := "", error(nil)
	switch {
	case w.Verify != "":
		word, err = r.again(ctx, func(ctx context.Context) (bool, string) { return r.verify(ctx, w) })
	case w.Log != "":
		word, err = r.again(ctx, func(ctx context.Context) (bool, string) { return r.logLines(ctx, w) })
	case w.HTTP != nil:
		word, err = r.again(ctx, func(ctx context.Context) (bool, string) { return r.http(ctx, w) })
	case len(w.Run) > 0:
		word, err = r.again(ctx, func(ctx context.Context) (bool, string) { return r.program(ctx, w) })
	default:
		word, err = r.history.wait(ctx, func(v view) (bool, string) { return w.judge(v, since) })
	}
	if err != nil {
		return "", fmt.Errorf("waiting for %s: %w; %s", w.sentence(), err, word)
	}
	return word, nil
}

// again does something until it is content. The next try comes after the lab was observed once more, so that it cannot spin.
func (r *runner) again(ctx context.Context, try func(context.Context) (bool, string)) (string, error) {
	last := "it was not tried"
	for {
		_, changed := r.history.view()
		ok, word := try(ctx)
		if ok {
			return word, nil
		}
		if ctx.Err() == nil { // else only the end of the time is in it
			last = word
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return last, context.Cause(ctx)
		}
	}
}

// verify has the lab prove its claims, and compares the checks that fail with those that are to.
func (r *runner) verify(ctx context.Context, w Condition) (bool, string) {
	result, err := r.lab.Verify(ctx)
	if err != nil {
		return false, err.Error()
	}
	var failed, unexpected, words []string
	met := map[string]bool{}
	for _, c := range result.Checks {
		if c.Passed() {
			continue
		}
		failed = append(failed, c.Name())
		words = append(words, c.Name()+" ("+c.Error+")")
		i := slices.IndexFunc(w.Fails, func(p string) bool { return matches(p, c.Name()) })
		if i < 0 {
			unexpected = append(unexpected, c.Name()+" ("+c.Error+")")
			continue
		}
		met[w.Fails[i]] = true
	}
	missing := slices.DeleteFunc(slices.Clone(w.Fails), func(p string) bool { return met[p] })
	passed := fmt.Sprintf("%d of %d checks passed", len(result.Checks)-len(failed), len(result.Checks))
	switch {
	case len(result.Checks) == 0:
		return false, "no check ran"
	case len(unexpected) > 0:
		return false, passed + "; these failed: " + strings.Join(unexpected, "; ")
	case len(missing) > 0:
		return false, passed + "; these should have failed: " + strings.Join(missing, ", ")
	case len(failed) > 0:
		return true, passed + ", and as it should be these failed: " + strings.Join(words, "; ")
	}
	return true, passed
}

// program runs a program on a host of the lab and looks at how it ends.
func (r *runner) program(ctx context.Context, w Condition) (bool, string) {
	out, status, err := r.execute(ctx, w.On, w.Run)
	if err != nil {
		return false, err.Error()
	}
	word := fmt.Sprintf("it ended with %d and printed %q", status, clip(out))
	return status == w.Exit && found(w.Output, out), word
}

// never looks through the history for what must not be in it. The lab is looked at once more, if it was not in that time.
func (r *runner) never(ctx context.Context, w Condition, since time.Duration) (string, error) {
	looked := func(v view) (bool, string) {
		return len(v.polls) > 0 && v.polls[len(v.polls)-1] > since, "the lab was not observed in that time"
	}
	if word, err := r.history.wait(ctx, looked); err != nil {
		return "", fmt.Errorf("%w: %s", err, word)
	}
	v, _ := r.history.view()
	until := v.polls[len(v.polls)-1]
	if len(w.Nodes) == 0 {
		if ok, word := w.judge(v, since); ok {
			return "", errors.New(word)
		}
	}
	for _, n := range w.Nodes {
		if ok, word := w.judgeNode(v, n, since); ok {
			return "", fmt.Errorf("%s %s", n, word)
		}
	}
	polls, _ := slices.BinarySearch(v.polls, since)
	return fmt.Sprintf("not seen in %d looks from %s to %s", len(v.polls)-polls, seconds(since), seconds(until)), nil
}

func clip(s string) string {
	s = strings.TrimSpace(s)
	if len(s) > 600 {
		return s[:600] + "…"
	}
	return s
}
