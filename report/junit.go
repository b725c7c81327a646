package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

type junitFailure struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr"`
	Text    string `xml:",chardata"`
}

type junitCase struct {
	Name      string        `xml:"name,attr"`
	Class     string        `xml:"classname,attr"`
	Time      string        `xml:"time,attr"`
	Failure   *junitFailure `xml:"failure"`
	SystemOut string        `xml:"system-out,omitempty"`
}

type junitSuite struct {
	Name      string      `xml:"name,attr"`
	Tests     int         `xml:"tests,attr"`
	Failures  int         `xml:"failures,attr"`
	Errors    int         `xml:"errors,attr"`
	Skipped   int         `xml:"skipped,attr"`
	Time      string      `xml:"time,attr"`
	Timestamp string      `xml:"timestamp,attr"`
	Cases     []junitCase `xml:"testcase"`
}

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Time     string       `xml:"time,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

// WriteJUnit writes r as JUnit XML in the form that the test reporters of GitLab, Jenkins and GitHub read: one testsuite per point, one
// testcase per check, named by ID and subject and classed by lab and point; times in seconds; evidence as system-out. A result without
// checks becomes one failed testcase, for readers take an empty file for success.
func WriteJUnit(w io.Writer, r Result) error {
	if len(r.Checks) == 0 {
		r.Checks = []Check{{ID: "checks", Point: "checks", Status: Fail, Error: noChecks}}
	}
	passed, failed := count(r.Checks)
	out := junitSuites{Name: "keylab " + oneLine(r.Lab), Tests: passed + failed, Failures: failed, Time: junitTime(r.Duration)}
	for _, g := range r.groups() {
		passed, failed := count(g.checks)
		suite := junitSuite{
			Name: oneLine(g.point), Tests: passed + failed, Failures: failed,
			// JUnit's schema has no zone here.
			Timestamp: r.Started.UTC().Format("2006-01-02T15:04:05"),
		}
		var total time.Duration
		for _, c := range g.checks {
			total += c.Duration
			// Readers split the class at dots into packages.
			class := strings.ReplaceAll(oneLine(r.Lab), ".", "-") + "." + strings.ReplaceAll(oneLine(g.point), ".", "-")
			test := junitCase{Name: oneLine(c.Name()), Class: class, Time: junitTime(c.Duration), SystemOut: clean(c.Evidence)}
			if !c.Passed() {
				test.Failure = &junitFailure{Message: oneLine(c.failure()), Type: "failure", Text: clean(c.failure())}
			}
			suite.Cases = append(suite.Cases, test)
		}
		suite.Time = junitTime(total)
		out.Suites = append(out.Suites, suite)
	}
	data, err := xml.MarshalIndent(out, "", "  ")
	if err == nil {
		_, err = io.WriteString(w, xml.Header+string(data)+"\n")
	}
	if err != nil {
		return fmt.Errorf("write the JUnit report of lab %s: %w", r.Lab, err)
	}
	return nil
}

func junitTime(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) }
