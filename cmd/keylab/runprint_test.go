package main

import (
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/report"
)

// Why a run of many did not pass is at the end of what is printed, below the table: the end is what CI shows first, and sometimes all that it keeps.
func TestSummarySaysAtTheEndWhatFailed(t *testing.T) {
	run := func(name string, v report.Verdict, why string) report.Run {
		return report.Run{Scenario: name, Mode: "push", Substrate: "netns", Started: time.Now(), Verdict: v, Error: why}
	}
	var said strings.Builder
	p := newRunPrinter(streams{out: &said, err: &said}, 4, 2, false)
	p.summary([]report.Run{
		run("first", report.Passed, ""), run("second", report.Failed, "step 3, expect node-1 failed: not within 1s\nit was attested"), run("third", report.Passed, ""),
		{Scenario: "fourth", Verdict: report.Interrupted, Error: "interrupted before it began"},
	})
	_, end, _ := strings.Cut(said.String(), "third ")
	want := `
✗ second (push, netns): step 3, expect node-1 failed: not within 1s
  it was attested
2 of 4 runs passed, 1 failed, 1 not begun.
`
	if _, end, _ := strings.Cut(end, "\n"); end != want {
		t.Errorf("after the table it says:\n%s\nwant:\n%s", end, want)
	}
}
