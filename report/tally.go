package report

import (
	"fmt"
	"slices"
	"strings"
)

// Tally is how many of several runs came to what.
type Tally struct {
	Runs, Passed, Failed, Broken, Interrupted int
	NotBegun                                  int // interrupted before anything was done; not among Interrupted
}

// TallyOf counts runs.
func TallyOf(runs []Run) Tally {
	t := Tally{Runs: len(runs)}
	for _, r := range runs {
		switch {
		case r.Passed():
			t.Passed++
		case r.Verdict == Interrupted && !r.Begun():
			t.NotBegun++
		case r.Verdict == Interrupted:
			t.Interrupted++
		case r.Verdict == Failed:
			t.Failed++
		default:
			t.Broken++
		}
	}
	return t
}

// Begun leaves out the runs of which nothing was done: they have nothing to show but their number, which a Tally has.
func Begun(runs []Run) []Run {
	return slices.DeleteFunc(slices.Clone(runs), func(r Run) bool { return r.Verdict == Interrupted && !r.Begun() })
}

// String is one line: how many passed, and what became of the others.
func (t Tally) String() string {
	if t.Passed == t.Runs {
		return plural(t.Runs, "run") + " passed"
	}
	parts := []string{fmt.Sprintf("%d of %s passed", t.Passed, plural(t.Runs, "run"))}
	for _, p := range []struct {
		count int
		words string
	}{
		{t.Failed, "failed"}, {t.Broken, "could not be carried out"}, {t.Interrupted, "interrupted"}, {t.NotBegun, "not begun"},
	} {
		if p.count > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.count, p.words))
		}
	}
	return strings.Join(parts, ", ")
}

// mark is the whole's, as one character: what failed counts for more than that it was interrupted.
func (t Tally) mark() string {
	switch {
	case t.Runs == 0 || t.Failed+t.Broken > 0:
		return Failed.mark()
	case t.Passed == t.Runs:
		return Passed.mark()
	}
	return Interrupted.mark()
}
