package keylabtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/report"
	"keylab.dev/keylab/report/files"
	"keylab.dev/keylab/scenario"
	"keylab.dev/keylab/scenarios"
)

// Scenario reads a scenario: a file, named with its folder or its ending (.yaml, .yml), or one of keylab's library, by its name. One that is not valid stops
// the test, with all its problems.
func Scenario(t testing.TB, name string) scenario.Scenario {
	t.Helper()
	s, err := readScenario(name)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return s
}

func readScenario(name string) (scenario.Scenario, error) {
	if ext := filepath.Ext(name); !strings.ContainsRune(name, os.PathSeparator) && ext != ".yaml" && ext != ".yml" {
		return scenarios.Load(name)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return scenario.Scenario{}, fmt.Errorf("read the scenario: %w", err)
	}
	return scenario.Decode(name, data)
}

// RunScenario carries a scenario out, in a lab of its own or in that of the options, each step as a subtest. The test fails when the run does not pass: when an
// expectation was not met, when a fault was not seen to fire, and when the lab did not come up. Steps after one that failed are skipped.
//
// Each option can change how the scenario is run: its mode, substrate, or seed, for instance.
func RunScenario(t *testing.T, s scenario.Scenario, options ...func(*scenario.Options)) report.Run {
	t.Helper()
	steps, done := make(chan report.Step), make(chan report.Run, 1)
	tell := func(o *scenario.Options) {
		heard := o.OnStep
		o.OnStep = func(step report.Step) {
			steps <- step
			if heard != nil {
				heard(step)
			}
		}
	}
	prepare(t)
	go func() {
		defer close(steps)
		done <- Play(t, s, append(slices.Clone(options), tell)...)
	}()
	for step := range steps {
		show(t, step, steps)
	}
	run := <-done
	if run.Passed() {
		return run
	}
	for _, l := range run.Logs {
		showLog(t, run.Lab, l.Name, l.Text)
	}
	why := ""
	if run.Verdict == report.Broken {
		why = diagnosis(spec.Substrate(run.Substrate))
	}
	t.Errorf("scenario %s (%s, %s): %s: %s%s", s.Name, run.Mode, run.Substrate, run.Verdict, run.Reason(), why)
	return run
}

// Play carries a scenario out as RunScenario does, and judges nothing: for tests of a run that is to fail. What is kept is kept.
func Play(t testing.TB, s scenario.Scenario, options ...func(*scenario.Options)) report.Run {
	t.Helper()
	prepare(t)
	var o scenario.Options
	for _, set := range options {
		set(&o)
	}
	run := scenario.Run(untilDeadline(t), s, o)
	keepRun(t, run)
	return run
}

// show is a subtest that lasts as long as the step: from when it begins until it has ended, which is what steps tells next. A step that was not come to has
// only an end.
func show(t *testing.T, step report.Step, steps <-chan report.Step) {
	ended := step.Status != ""
	end := func() report.Step {
		if !ended {
			step, ended = <-steps, true
		}
		return step
	}
	name := step.Name
	if step.Number > 0 {
		name = fmt.Sprintf("%d %s", step.Number, name)
	}
	t.Run(name, func(t *testing.T) {
		switch s := end(); s.Status {
		case report.StepPassed:
			if seen := strings.Trim(s.Done+"; "+s.Evidence, "; "); seen != "" {
				t.Log(seen)
			}
		case report.StepSkipped:
			t.Skip("not come to: a step before it failed")
		default:
			t.Error(s.Reason())
		}
	})
	end() // where -run leaves the subtest out
}

// keepRun writes the reports of a run.
func keepRun(t testing.TB, run report.Run) {
	t.Helper()
	dir := artifacts(t)
	if dir == "" {
		return
	}
	page, err := files.WriteRun(filepath.Join(dir, run.Scenario), run)
	if err != nil {
		t.Errorf("%v", err)
		return
	}
	t.Logf("report: %s", page)
}
