package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// WriteRunJUnit writes runs of scenarios as JUnit XML: one testsuite per run and one testcase per step, named by its number and what it
// says, with what was done and seen as system-out. An expectation that was not met, and a fault that did not fire, is a failure; an action
// that could not be done is an error, and so is what else kept a run from passing, as a testcase of its own. What a run was made with
// (substrate, mode, versions, seed) is in the suite's properties. No runs become one failed testcase.
func WriteRunJUnit(w io.Writer, runs []Run) error {
	out := junitSuites{Name: "keylab scenarios"}
	if len(runs) == 0 {
		out.Suites = []junitSuite{{
			Name: "scenarios", Tests: 1, Errors: 1, Time: junitTime(0),
			Cases: []junitCase{{Name: "scenarios", Class: "keylab.scenarios", Time: junitTime(0), Error: junitProblem("error", noRuns)}},
		}}
	}
	var seconds float64
	for _, r := range runs {
		out.Suites = append(out.Suites, runSuite(r))
		seconds += r.Duration.Seconds()
	}
	for _, s := range out.Suites {
		out.Tests += s.Tests
		out.Failures += s.Failures
		out.Errors += s.Errors
	}
	out.Time = strconv.FormatFloat(seconds, 'f', 3, 64)
	if err := out.write(w); err != nil {
		return fmt.Errorf("write the JUnit report of %d runs: %w", len(runs), err)
	}
	return nil
}

// noRuns is what every writer says of no runs at all.
const noRuns = "no scenario was run"

func runSuite(r Run) junitSuite {
	suite := junitSuite{
		Name: oneLine(r.Scenario), Time: junitTime(r.Duration), Timestamp: junitStamp(r.Started),
		Properties: &junitProperties{List: runProperties(r)},
	}
	class := junitClass("keylab", r.Scenario)
	for i, s := range r.Steps {
		suite.add(stepCase(class, i, s))
	}
	if !r.Passed() && (suite.Failures+suite.Errors == 0 || r.Verdict == Interrupted) {
		suite.add(junitCase{
			Name: "the run", Class: class, Time: junitTime(r.Duration),
			Error: junitProblem(string(r.Verdict), r.Reason()), SystemOut: runLogs(r),
		})
	}
	return suite
}

// add counts a testcase and takes it in.
func (s *junitSuite) add(c junitCase) {
	s.Tests++
	switch {
	case c.Error != nil:
		s.Errors++
	case c.Failure != nil:
		s.Failures++
	case c.Skipped != nil:
		s.Skipped++
	}
	s.Cases = append(s.Cases, c)
}

// stepCase is the testcase of the i-th step. Readers sort by name, and want names that differ: so the place comes first, in two digits.
func stepCase(class string, i int, s Step) junitCase {
	c := junitCase{
		Name: oneLine(fmt.Sprintf("%02d %s: %s", i+1, s.Kind, s.Title())), Class: class, Time: junitTime(s.Duration),
		SystemOut: Clean(strings.TrimSpace(s.Done + "\n" + s.Evidence)),
	}
	switch {
	case s.Status == StepSkipped:
		c.Skipped = &junitSkipped{Message: "a step before it failed"}
		if s.Error != "" {
			c.Skipped.Message = oneLine(s.Error)
		}
	case s.Reason() == "":
	case s.Kind == StepExpect || s.Kind == StepNever || s.Kind == StepFault:
		c.Failure = junitProblem("failure", s.Reason(), s.Evidence)
	default:
		c.Error = junitProblem("error", s.Reason(), s.Evidence)
	}
	return c
}

// junitProblem is a failure or an error: one line for lists, all of it for who opens it.
func junitProblem(kind, reason string, evidence ...string) *junitFailure {
	text := Clean(reason)
	for _, e := range evidence {
		if e = strings.TrimSpace(Clean(e)); e != "" {
			text += "\n\nSeen:\n" + e
		}
	}
	return &junitFailure{Message: oneLine(reason), Type: kind, Text: text}
}

func runProperties(r Run) []junitProperty {
	var list []junitProperty
	for _, p := range [][2]string{
		{"title", r.Title}, {"verdict", string(r.Verdict)}, {"lab", r.Lab}, {"substrate", r.Substrate}, {"mode", r.Mode},
		{"keylime", r.Keylime}, {"agent", r.Agent}, {"keylab", r.Keylab}, {"seed", strconv.FormatUint(r.Seed, 10)},
	} {
		if p[1] != "" {
			list = append(list, junitProperty{Name: p[0], Value: oneLine(p[1])})
		}
	}
	return list
}

func runLogs(r Run) string {
	var b strings.Builder
	for _, l := range r.Logs {
		fmt.Fprintf(&b, "── %s\n%s\n", oneLine(l.Name), strings.TrimSpace(Clean(l.Text)))
	}
	return b.String()
}
