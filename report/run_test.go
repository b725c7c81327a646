package report_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"keylab.dev/keylab/report"
	"keylab.dev/keylab/report/internal/sample"
)

func interrupted() report.Run {
	r := sample.Swapped()
	r.Verdict, r.Error, r.Steps, r.Logs = report.Interrupted, "interrupted by the user in step 2", r.Steps[:2], nil
	return r
}

func allRuns() []report.Run {
	return []report.Run{sample.Rotation(), sample.Swapped(), interrupted(), sample.Hostile()}
}

func TestRunGolden(t *testing.T) {
	for name, write := range map[string]func(io.Writer) error{
		"run.json":         func(w io.Writer) error { return report.WriteRunJSON(w, sample.Swapped()) },
		"run-empty.json":   func(w io.Writer) error { return report.WriteRunJSON(w, report.Run{}) },
		"history.jsonl":    func(w io.Writer) error { return report.WriteHistory(w, sample.Rotation()) },
		"runs.xml":         func(w io.Writer) error { return report.WriteRunJUnit(w, allRuns()) },
		"runs-none.xml":    func(w io.Writer) error { return report.WriteRunJUnit(w, nil) },
		"runs.md":          func(w io.Writer) error { return report.WriteRunMarkdown(w, allRuns()) },
		"runs-passed.md":   func(w io.Writer) error { return report.WriteRunMarkdown(w, allRuns()[:1]) },
		"runs-none.md":     func(w io.Writer) error { return report.WriteRunMarkdown(w, nil) },
		"runs-no-steps.md": func(w io.Writer) error { return report.WriteRunMarkdown(w, []report.Run{{Scenario: "empty"}}) },
	} {
		var got bytes.Buffer
		if err := write(&got); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		path := filepath.Join("testdata", "run", name)
		if *update {
			if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got.String()); diff != "" {
			t.Errorf("%s (go test -update writes it anew; -want +got):\n%s", name, diff)
		}
	}
}

// A run that was written is read as it was, but for its picture.
func TestRunJSONReadsBack(t *testing.T) {
	for _, want := range allRuns() {
		want.Duration += 123456 * time.Microsecond
		var out bytes.Buffer
		if err := report.WriteRunJSON(&out, want); err != nil {
			t.Fatal(err)
		}
		got, err := report.ReadRun(&out)
		if err != nil {
			t.Fatal(err)
		}
		want.Topology = ""
		fix := cmp.Transformer("valid", func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") })
		empty := cmp.FilterValues(func(a, b []report.Certificate) bool { return len(a)+len(b) == 0 }, cmp.Ignore())
		if diff := cmp.Diff(want, got, fix, empty); diff != "" && want.Scenario != sample.Hostile().Scenario {
			t.Errorf("%s (-want +got):\n%s", want.Scenario, diff)
		}
		if len(got.Steps) != len(want.Steps) || got.Duration != want.Duration || got.Steps[0].At != want.Steps[0].At {
			t.Errorf("%s: got %+v", want.Scenario, got)
		}
	}
}

// What a program finds in the JSON: seconds, not nanoseconds, lists that are never null, and commands as one would type them.
func TestRunJSONForm(t *testing.T) {
	var out bytes.Buffer
	run := sample.Swapped()
	run.Runbook = []string{"a < b && c > d"}
	if err := report.WriteRunJSON(&out, run); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `"a < b && c > d"`) {
		t.Error("a command is not readable in the JSON")
	}
	var doc struct {
		Schema       string
		Seconds      float64
		Certificates json.RawMessage
		Steps        []struct {
			At float64 `json:"at_seconds"`
		}
		History []map[string]any
	}
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Schema != report.RunSchema || doc.Seconds != 38.4 || doc.Steps[1].At != 5 || string(doc.Certificates) != "[]" || doc.History[0]["at_seconds"] != 1.0 {
		t.Errorf("%+v", doc)
	}
}

func TestReadRunRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                               "EOF",
		"[]":                             "cannot unmarshal array",
		`{"schema":"keylab.dev/run/v9"}`: `its schema is "keylab.dev/run/v9"`,
		`{"schema":"` + report.RunSchema: "unexpected EOF",
		`{"seconds":1e300}`:              "more than a duration can hold",
		`{"seconds":"1s"}`:               "cannot unmarshal string",
		`{"steps":[{"at_seconds":[]}]}`:  "cannot unmarshal array",
		`{"schema":"` + report.RunSchema + `"} {}`: "more than one JSON document",
	} {
		if _, err := report.ReadRun(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestHistoryIsOneEntryALine(t *testing.T) {
	var out bytes.Buffer
	run := sample.Hostile()
	if err := report.WriteHistory(&out, run); err != nil {
		t.Fatal(err)
	}
	count := 0
	for lines := bufio.NewScanner(&out); lines.Scan(); count++ {
		var e report.Entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.At != run.History[count].At || e.Kind != run.History[count].Kind {
			t.Errorf("line %d: %v, %+v", count+1, err, e)
		}
	}
	if count != len(run.History) {
		t.Errorf("%d lines of %d entries", count, len(run.History))
	}
}

// What a reader of JUnit XML finds of every kind of run.
func TestRunJUnitReadsBack(t *testing.T) {
	var out bytes.Buffer
	if err := report.WriteRunJUnit(&out, allRuns()); err != nil {
		t.Fatal(err)
	}
	for _, r := range out.String() {
		if r < ' ' && r != '\n' || unicode.Is(unicode.Bidi_Control, r) {
			t.Errorf("character %U in the XML", r)
		}
	}
	type problem struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	var doc struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
		Suites   []struct {
			Name     string `xml:"name,attr"`
			Tests    int    `xml:"tests,attr"`
			Failures int    `xml:"failures,attr"`
			Errors   int    `xml:"errors,attr"`
			Skipped  int    `xml:"skipped,attr"`
			Cases    []struct {
				Name    string    `xml:"name,attr"`
				Failure *problem  `xml:"failure"`
				Error   *problem  `xml:"error"`
				Skipped *struct{} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Tests != 11+6+3+2 || doc.Failures != 1 || doc.Errors != 1+2 || len(doc.Suites) != 4 {
		t.Errorf("counts: %d tests, %d failures, %d errors", doc.Tests, doc.Failures, doc.Errors)
	}
	passed, failed, stopped := doc.Suites[0], doc.Suites[1], doc.Suites[2]
	if passed.Failures+passed.Errors+passed.Skipped != 0 || passed.Name != "ek-rotation-overlap" {
		t.Errorf("the run that passed: %+v", passed)
	}
	step := failed.Cases[4]
	if failed.Failures != 1 || failed.Skipped != 1 || step.Failure == nil || step.Failure.Message != "node-2 was not attested again within 15 s" ||
		!strings.Contains(step.Failure.Text, "internal.verifier.not_reachable") || failed.Cases[5].Skipped == nil {
		t.Errorf("the run that failed: %+v", failed)
	}
	last := stopped.Cases[len(stopped.Cases)-1]
	if stopped.Errors != 1 || last.Error == nil || last.Error.Message != "interrupted by the user in step 2" {
		t.Errorf("the run that was interrupted: %+v", stopped)
	}
	names := map[string]bool{}
	for _, c := range passed.Cases {
		if names[c.Name] {
			t.Errorf("two testcases are named %q", c.Name)
		}
		names[c.Name] = true
	}
}

func TestStepTitle(t *testing.T) {
	for name, want := range map[string]string{
		"expect node-1 failed": "node-1 failed", "never node-1 failed": "node-1 failed", "break: dead-agent node-1": "dead-agent node-1", "mend: dead-agent node-1": "dead-agent node-1",
		"the third node was never in doubt": "the third node was never in doubt", "expect ": "expect ", "": "", "expected": "expected",
	} {
		if got := (report.Step{Name: name}).Title(); got != want {
			t.Errorf("%q: %q, not %q", name, got, want)
		}
	}
}

// That a run was interrupted is said even if a step of it had failed before.
func TestRunJUnitSaysInterrupted(t *testing.T) {
	run := sample.Swapped()
	run.Verdict, run.Error = report.Interrupted, "interrupted by the user"
	var out bytes.Buffer
	if err := report.WriteRunJUnit(&out, []report.Run{run}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `<error message="interrupted by the user"`) || !strings.Contains(out.String(), "<failure ") {
		t.Errorf("not both an error and a failure in\n%s", out.String())
	}
}

// Whatever is wrong with a run, no reader of JUnit may take it for success.
func TestRunJUnitIsNeverSilent(t *testing.T) {
	for name, runs := range map[string][]report.Run{
		"no runs":    nil,
		"no verdict": {{Scenario: "s"}},
		"broken":     {{Scenario: "s", Verdict: report.Broken, Steps: []report.Step{{Kind: report.StepLab, Status: report.StepPassed}}}},
		"no status":  {{Scenario: "s", Verdict: report.Passed, Steps: []report.Step{{Kind: report.StepExpect}}}},
	} {
		var out bytes.Buffer
		if err := report.WriteRunJUnit(&out, runs); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), "<error ") && !strings.Contains(out.String(), "<failure ") {
			t.Errorf("%s: neither an error nor a failure in\n%s", name, out.String())
		}
	}
}

// Nothing that a lab printed becomes markup, and no fence is ended from within.
func TestRunMarkdownEscapes(t *testing.T) {
	var out bytes.Buffer
	if err := report.WriteRunMarkdown(&out, []report.Run{sample.Hostile()}); err != nil {
		t.Fatal(err)
	}
	fence := ""
	for line := range strings.Lines(out.String()) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "```") && (fence == "" || line == fence) {
			if fence == "" {
				fence = line
			} else {
				fence = ""
			}
			continue
		}
		if fence == "" && (strings.Contains(line, "<script") || strings.Contains(line, "<img") || strings.Contains(line, "@all") || strings.Contains(line, "[x](")) {
			t.Errorf("markup outside of a fence: %s", line)
		}
		if strings.ContainsAny(line, "\x00\x1b\u202e") {
			t.Errorf("control characters: %q", line)
		}
	}
	if fence != "" {
		t.Errorf("a fence %s has no end", fence)
	}
}

// A long log does not fill the page.
func TestRunMarkdownClips(t *testing.T) {
	run := sample.Swapped()
	run.Logs[0].Text = strings.Repeat("ä", 1<<20)
	var out bytes.Buffer
	if err := report.WriteRunMarkdown(&out, []report.Run{run}); err != nil {
		t.Fatal(err)
	}
	if out.Len() > 20000 || !strings.Contains(out.String(), "more bytes") || strings.Contains(out.String(), "\uFFFD") {
		t.Errorf("%d bytes", out.Len())
	}
}

func TestRunWriteErrorsAreReported(t *testing.T) {
	for name, err := range map[string]error{
		"JSON":     report.WriteRunJSON(brokenWriter{}, sample.Swapped()),
		"history":  report.WriteHistory(brokenWriter{}, sample.Swapped()),
		"JUnit":    report.WriteRunJUnit(brokenWriter{}, allRuns()),
		"Markdown": report.WriteRunMarkdown(brokenWriter{}, allRuns()),
	} {
		if !errors.Is(err, errDiskFull) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
