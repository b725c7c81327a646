package report_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/report"
)

var update = flag.Bool("update", false, "write the golden files anew")

func example() report.Result {
	return report.Result{
		Lab: "demo", Started: time.Date(2030, 5, 1, 12, 0, 0, 0, time.FixedZone("CEST", 7200)), Duration: 3234 * time.Millisecond,
		Checks: []report.Check{
			{ID: "registration.uuid", Point: "1 registration", Subject: "node-1", Status: report.Pass, Evidence: "4d2f… at 198.18.10.11", Duration: 12 * time.Millisecond},
			{ID: "separation.router", Point: "3 separation", Status: report.Pass, Evidence: "dropped 4 of 4", Duration: 2 * time.Second},
			{ID: "registration.uuid", Point: "1 registration", Subject: "node-2", Status: report.Fail, Error: "agent is <absent> & \"gone\"\nask the registrar", Evidence: "404", Duration: 90 * time.Microsecond},
			{ID: "separation.scan", Point: "3 separation", Subject: "services → cluster", Status: report.Pass, Evidence: "line one\nline\ttwo\n"},
			{ID: "liveness", Point: "5 liveness", Subject: "node-1", Duration: 61 * time.Second},
			{ID: "liveness", Point: "5 liveness", Subject: "evil\x1b[2J\u202e", Status: report.Fail, Error: "\x00bad \xff bytes \x07\r\nnext"},
		},
	}
}

func TestGolden(t *testing.T) {
	allPassed := example()
	allPassed.Checks = allPassed.Checks[:2]
	empty := report.Result{Lab: "demo", Started: example().Started}
	table := func(o report.TableOptions) func(io.Writer, report.Result) error {
		return func(w io.Writer, r report.Result) error { return report.WriteTable(w, r, o) }
	}
	for name, c := range map[string]struct {
		write  func(io.Writer, report.Result) error
		result report.Result
	}{
		"table.txt":         {table(report.TableOptions{}), example()},
		"table-verbose.txt": {table(report.TableOptions{Verbose: true}), example()},
		"table-color.txt":   {table(report.TableOptions{Color: true}), example()},
		"table-passed.txt":  {table(report.TableOptions{}), allPassed},
		"table-empty.txt":   {table(report.TableOptions{}), empty},
		"report.json":       {report.WriteJSON, example()},
		"empty.json":        {report.WriteJSON, empty},
		"junit.xml":         {report.WriteJUnit, example()},
		"junit-empty.xml":   {report.WriteJUnit, empty},
		"checks.md":         {report.WriteMarkdown, example()},
		"checks-passed.md":  {report.WriteMarkdown, allPassed},
		"checks-empty.md":   {report.WriteMarkdown, empty},
	} {
		var got bytes.Buffer
		if err := c.write(&got, c.result); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got.String() != string(want) {
			t.Errorf("%s (go test -update writes it anew): got\n%s\nwant\n%s", name, got.String(), want)
		}
	}
}

func TestPassed(t *testing.T) {
	pass, fail := report.Check{Status: report.Pass}, report.Check{Status: report.Fail}
	for name, c := range map[string]struct {
		checks []report.Check
		want   bool
	}{
		"none":            {nil, false},
		"passed":          {[]report.Check{pass, pass}, true},
		"one failed":      {[]report.Check{pass, fail, pass}, false},
		"one without end": {[]report.Check{pass, {}}, false},
		"strange status":  {[]report.Check{pass, {Status: "skipped"}}, false},
	} {
		if got := (report.Result{Checks: c.checks}).Passed(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// What a reader of JUnit XML finds in it, and that no raw control character is left.
func TestJUnitReadsBack(t *testing.T) {
	var out bytes.Buffer
	if err := report.WriteJUnit(&out, example()); err != nil {
		t.Fatal(err)
	}
	for _, r := range out.String() {
		if r < ' ' && r != '\n' || r == 0x7f || r == 0x202e {
			t.Errorf("character %U in the XML", r)
		}
	}
	var doc struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Suites   []struct {
			Name     string `xml:"name,attr"`
			Tests    int    `xml:"tests,attr"`
			Failures int    `xml:"failures,attr"`
			Cases    []struct {
				Name    string `xml:"name,attr"`
				Failure *struct {
					Message string `xml:"message,attr"`
					Text    string `xml:",chardata"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Tests != 6 || doc.Failures != 3 || len(doc.Suites) != 3 || doc.Suites[0].Tests != 2 || doc.Suites[0].Failures != 1 {
		t.Errorf("counts: %+v", doc)
	}
	bad := doc.Suites[0].Cases[1]
	if bad.Name != "registration.uuid node-2" || bad.Failure == nil || bad.Failure.Message != `agent is <absent> & "gone" ask the registrar` ||
		bad.Failure.Text != "agent is <absent> & \"gone\"\nask the registrar" {
		t.Errorf("failed case %+v: %+v", bad, bad.Failure)
	}
	if doc.Suites[0].Cases[0].Failure != nil {
		t.Error("a passed case has a failure")
	}
}

func TestJSONReadsBack(t *testing.T) {
	var out bytes.Buffer
	if err := report.WriteJSON(&out, example()); err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Passed bool
		Checks []struct{ Status, Error string }
	}
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Passed || len(doc.Checks) != 6 || doc.Checks[4].Status != "fail" || !strings.Contains(doc.Checks[4].Error, "no result") {
		t.Errorf("%+v", doc)
	}
}

type brokenWriter struct{}

var errDiskFull = errors.New("disk full")

func (brokenWriter) Write([]byte) (int, error) { return 0, errDiskFull }

func TestWriteErrorsAreReported(t *testing.T) {
	for name, err := range map[string]error{
		"table": report.WriteTable(brokenWriter{}, example(), report.TableOptions{}),
		"JSON":  report.WriteJSON(brokenWriter{}, example()),
		"JUnit": report.WriteJUnit(brokenWriter{}, example()),
	} {
		if !errors.Is(err, errDiskFull) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
