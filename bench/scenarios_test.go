package bench

import (
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/report"
	"keylab.dev/keylab/scenario"
)

// A run's time is told in its parts; one that did not pass counts for nothing, and is named.
func TestAddRuns(t *testing.T) {
	job := func(name string) scenario.Job {
		return scenario.Job{Scenario: scenario.Scenario{Name: name}, Options: scenario.Options{Mode: spec.ModePull}, Attempt: 1}
	}
	step := func(kind report.StepKind, s int) report.Step {
		return report.Step{Kind: kind, Duration: time.Duration(s) * time.Second}
	}
	steps := []report.Step{step(report.StepLab, 4), step(report.StepFault, 1), step(report.StepExpect, 8), step(report.StepLab, 2)}
	var s Section
	s.addRuns([]scenario.Job{job("good"), job("bad")}, []report.Run{
		{Verdict: report.Passed, Duration: 16 * time.Second, Steps: steps},
		{Verdict: report.Failed, Duration: time.Hour, Error: "it did not fire", Steps: steps},
	})
	got := map[string]float64{}
	for _, f := range s.Figures {
		if f.Summary.N != 1 {
			t.Errorf("%s: %d samples", f.Name, f.Summary.N)
		}
		got[strings.TrimSpace(f.Name)] = f.Summary.Median
	}
	for name, want := range map[string]float64{"one run": 16, "of that, bringing its lab up": 4, "of that, its steps": 10, "of that, taking its lab down": 2, "good-pull": 16} {
		if got[name] != want {
			t.Errorf("%s: %v s, want %v", name, got[name], want)
		}
	}
	if len(got) != 5 || len(s.Notes) != 1 || !strings.Contains(s.Notes[0], "bad-pull did not pass (failed), and is not counted: it did not fire") {
		t.Errorf("figures %v, notes %q", got, s.Notes)
	}
}
