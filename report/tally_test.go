package report_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/report"
)

// Who interrupts a long row of runs is told how many there were in each way, and does not have to read a line for each that never began.
func TestTally(t *testing.T) {
	began := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	runs := []report.Run{
		{Scenario: "first", Verdict: report.Passed, Started: began},
		{Scenario: "second", Verdict: report.Interrupted, Started: began},
		{Scenario: "third", Verdict: report.Interrupted},
		{Scenario: "fourth", Verdict: report.Interrupted},
	}
	if got, want := report.TallyOf(runs).String(), "1 of 4 runs passed, 1 interrupted, 2 not begun"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := report.TallyOf([]report.Run{{Verdict: report.Failed, Started: began}, {}}).String(), "0 of 2 runs passed, 1 failed, 1 could not be carried out"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var page bytes.Buffer
	if err := report.WriteRunMarkdown(&page, runs); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"⏹️ keylab: 1 of 4 runs passed": true, "first": true, "second": true, "third": false, "fourth": false} {
		if strings.Contains(page.String(), text) != want {
			t.Errorf("%q in the page: %v, want %v:\n%s", text, !want, want, page.String())
		}
	}
}
