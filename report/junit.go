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

type junitSkipped struct {
	Message string `xml:"message,attr"`
}

type junitProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type junitCase struct {
	Name      string        `xml:"name,attr"`
	Class     string        `xml:"classname,attr"`
	Time      string        `xml:"time,attr"`
	Skipped   *junitSkipped `xml:"skipped"`
	Error     *junitFailure `xml:"error"`
	Failure   *junitFailure `xml:"failure"`
	SystemOut string        `xml:"system-out,omitempty"`
}

type junitProperties struct {
	List []junitProperty `xml:"property"`
}

type junitSuite struct {
	Name       string           `xml:"name,attr"`
	Tests      int              `xml:"tests,attr"`
	Failures   int              `xml:"failures,attr"`
	Errors     int              `xml:"errors,attr"`
	Skipped    int              `xml:"skipped,attr"`
	Time       string           `xml:"time,attr"`
	Timestamp  string           `xml:"timestamp,attr"`
	Properties *junitProperties `xml:"properties"`
	Cases      []junitCase      `xml:"testcase"`
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
		suite := junitSuite{Name: oneLine(g.point), Tests: passed + failed, Failures: failed, Timestamp: junitStamp(r.Started)}
		var total time.Duration
		for _, c := range g.checks {
			total += c.Duration
			test := junitCase{Name: oneLine(c.Name()), Class: junitClass(r.Lab, g.point), Time: junitTime(c.Duration), SystemOut: Clean(c.Evidence)}
			if !c.Passed() {
				test.Failure = &junitFailure{Message: oneLine(c.failure()), Type: "failure", Text: Clean(c.failure())}
			}
			suite.Cases = append(suite.Cases, test)
		}
		suite.Time = junitTime(total)
		out.Suites = append(out.Suites, suite)
	}
	if err := out.write(w); err != nil {
		return fmt.Errorf("write the JUnit report of lab %s: %w", r.Lab, err)
	}
	return nil
}

func (s junitSuites) write(w io.Writer) error {
	data, err := xml.MarshalIndent(s, "", "  ")
	if err == nil {
		_, err = io.WriteString(w, xml.Header+string(data)+"\n")
	}
	return err
}

// junitClass joins two names to a class. Readers split it at dots into packages, so there is no other dot in it.
func junitClass(outer, inner string) string {
	return strings.ReplaceAll(oneLine(outer), ".", "-") + "." + strings.ReplaceAll(oneLine(inner), ".", "-")
}

// junitStamp is a time in UTC: JUnit's schema has no zone here.
func junitStamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05") }

func junitTime(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) }
