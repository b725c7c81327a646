package report

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Status of a check.
type Status string

// The statuses. Any other value, the empty one included, counts as Fail.
const (
	Pass Status = "pass"
	Fail Status = "fail"
)

// Check is one thing that was looked at.
type Check struct {
	ID       string // stable name, e.g. "registration.uuid"
	Point    string // heading under which it belongs, e.g. "1 registration"
	Subject  string // the node or flow looked at; may be empty
	Status   Status
	Evidence string // what was seen; may be empty
	Error    string // why it failed; empty when it passed
	Duration time.Duration
}

// Passed tells whether the check did.
func (c Check) Passed() bool { return c.Status == Pass }

// Name is the ID with the subject, if any.
func (c Check) Name() string {
	if c.Subject == "" {
		return c.ID
	}
	return c.ID + " " + c.Subject
}

// failure is the error to show for a failed check, never empty.
func (c Check) failure() string {
	switch {
	case c.Error != "":
		return c.Error
	case c.Status != Fail:
		return fmt.Sprintf("the check has no result (status %q)", string(c.Status))
	}
	return "failed, with no reason given"
}

// Result is the outcome of all checks of one lab.
type Result struct {
	Lab      string
	Started  time.Time
	Duration time.Duration
	Checks   []Check
}

// Passed tells whether every check passed, and at least one ran.
func (r Result) Passed() bool {
	passed, failed := count(r.Checks)
	return passed > 0 && failed == 0
}

// noChecks is what every writer says of an empty result.
const noChecks = "no checks ran"

func count(checks []Check) (passed, failed int) {
	for _, c := range checks {
		if c.Passed() {
			passed++
		} else {
			failed++
		}
	}
	return passed, failed
}

// group is the checks of one point.
type group struct {
	point  string
	checks []Check
}

// groups gathers the checks by point, both in the order of first appearance.
func (r Result) groups() []group {
	var out []group
	index := map[string]int{}
	for _, c := range r.Checks {
		i, ok := index[c.Point]
		if !ok {
			i = len(out)
			index[c.Point] = i
			out = append(out, group{point: c.Point})
		}
		out[i].checks = append(out[i].checks, c)
	}
	return out
}

type jsonCheck struct {
	ID       string  `json:"id"`
	Point    string  `json:"point"`
	Subject  string  `json:"subject,omitempty"`
	Status   Status  `json:"status"`
	Evidence string  `json:"evidence,omitempty"`
	Error    string  `json:"error,omitempty"`
	Seconds  float64 `json:"seconds"`
}

type jsonResult struct {
	Lab        string      `json:"lab"`
	Started    time.Time   `json:"started"`
	Seconds    float64     `json:"seconds"`
	Passed     bool        `json:"passed"`
	PassCount  int         `json:"passCount"`
	FailCount  int         `json:"failCount"`
	CheckInfos []jsonCheck `json:"checks"`
}

// WriteJSON writes r as one JSON object: lab, started (RFC 3339), seconds, passed, passCount, failCount, and checks, each with id, point,
// subject, status ("pass" or "fail"), evidence, error and seconds.
func WriteJSON(w io.Writer, r Result) error {
	out := jsonResult{Lab: r.Lab, Started: r.Started, Seconds: r.Duration.Seconds(), Passed: r.Passed(), CheckInfos: []jsonCheck{}}
	out.PassCount, out.FailCount = count(r.Checks)
	for _, c := range r.Checks {
		j := jsonCheck{ID: c.ID, Point: c.Point, Subject: c.Subject, Status: Pass, Evidence: c.Evidence, Seconds: c.Duration.Seconds()}
		if !c.Passed() {
			j.Status, j.Error = Fail, c.failure()
		}
		out.CheckInfos = append(out.CheckInfos, j)
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(out); err != nil {
		return fmt.Errorf("write the JSON report of lab %s: %w", r.Lab, err)
	}
	return nil
}
