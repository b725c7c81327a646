package report

//go:generate go run ./internal/rundoc

import (
	"fmt"
	"strings"
	"time"
)

// RunSchema names the form of a Run in JSON. A field may be added without a new name; one that is removed or changes its meaning needs one.
const RunSchema = "keylab.dev/run/v1alpha1"

// Run is what happened in one run of a scenario: all that its reports are made of. In JSON every length of time is a number of seconds,
// exact to the microsecond.
type Run struct {
	Schema   string `json:"schema"`             // RunSchema
	Scenario string `json:"scenario"`           // its name
	Title    string `json:"title"`              // one line for people
	Question string `json:"question,omitempty"` // what the scenario asks; plain text in paragraphs, as the next three
	Happens  string `json:"happens,omitempty"`  // what is done
	Why      string `json:"why,omitempty"`      // why it comes out as it does
	Fleet    string `json:"fleet,omitempty"`    // what it means for a fleet

	Lab       string `json:"lab"`              // its name
	Substrate string `json:"substrate"`        // netns or kind
	Mode      string `json:"mode"`             // pull or push
	Keylime   string `json:"keylime"`          // its version
	Agent     string `json:"agent"`            // kind of the nodes' agents
	Keylab    string `json:"keylab,omitempty"` // version of keylab
	Seed      uint64 `json:"seed"`             // of the random choices

	Started  time.Time     `json:"started"`         // when it began
	Duration time.Duration `json:"seconds"`         // of the whole run
	Polls    int           `json:"polls"`           // how often the lab was asked how it is
	Polling  time.Duration `json:"polling_seconds"` // how long that took in all
	Verdict  Verdict       `json:"verdict"`         // how it ended
	Error    string        `json:"error,omitempty"` // why it is not Passed, in one sentence
	// Disarmed is what came of a run in which all that is done or broken was left out: such a run has passed when the scenario failed for want of that.
	Disarmed string `json:"disarmed,omitempty"`

	Steps        []Step        `json:"steps"`             // in the order in which they were carried out
	Nodes        []RunNode     `json:"nodes"`             // as they were at the end
	Certificates []Certificate `json:"certificates"`      // all that the lab's CAs issued
	Gaps         []Gap         `json:"gaps"`              // of each node
	Runbook      []string      `json:"runbook,omitempty"` // the commands that an operator would have run against a real Keylime
	Logs         []Log         `json:"logs,omitempty"`    // of what failed: the last lines
	History      []Entry       `json:"history"`           // what was observed, in order of time
	// Topology is a picture of the lab, made by package graph: SVG, which the HTML report contains as it is. It is not in the JSON, so that
	// nobody who hands a run on can put anything into a page made from it.
	Topology string `json:"-"`
}

// Passed tells whether the run did.
func (r Run) Passed() bool { return r.Verdict == Passed }

// Begun tells whether anything was done: a run that was interrupted before that has no start.
func (r Run) Begun() bool { return !r.Started.IsZero() }

// Count is how many steps came to what.
func (r Run) Count() (passed, failed, skipped int) {
	for _, s := range r.Steps {
		switch s.Status {
		case StepPassed:
			passed++
		case StepSkipped:
			skipped++
		default:
			failed++
		}
	}
	return passed, failed, skipped
}

// Reason is why the run did not pass, never empty for such a run, and always for one that passed.
func (r Run) Reason() string {
	if r.Passed() {
		return ""
	}
	if r.Error != "" {
		return r.Error
	}
	for _, s := range r.Steps {
		if s.Status != StepPassed && s.Status != StepSkipped {
			return s.Name + ": " + s.Reason()
		}
	}
	if r.Verdict == "" {
		return "the run has no verdict"
	}
	return string(r.Verdict) + ", with no reason given"
}

// Verdict is how a run ended.
type Verdict string

// The verdicts.
const (
	Passed      Verdict = "passed"      // every step did what was expected of it
	Failed      Verdict = "failed"      // an expectation was not met, or a fault did not fire
	Broken      Verdict = "error"       // the lab did not come up, or an action could not be done
	Interrupted Verdict = "interrupted" // by the user
)

// StepKind is what a step is.
type StepKind string

// The kinds of steps.
const (
	StepLab    StepKind = "lab"    // bringing the lab up or down
	StepAction StepKind = "action" // something was done
	StepFault  StepKind = "fault"  // something was broken, and must be seen to be
	StepMend   StepKind = "mend"   // something was mended
	StepExpect StepKind = "expect" // something had to happen, by a deadline
	StepNever  StepKind = "never"  // something must not have happened
)

// Step is one step of a scenario and what came of it. At and Duration are monotonic, from the run's start.
type Step struct {
	Number   int           `json:"number"`             // from 1; 0: the lab's own, before and after
	Kind     StepKind      `json:"kind"`               // what it is
	Name     string        `json:"name"`               // one line for people
	Status   StepStatus    `json:"status"`             // what came of it
	At       time.Duration `json:"at_seconds"`         // when it began, from the run's start
	Duration time.Duration `json:"seconds"`            // how long it took
	Nodes    []string      `json:"nodes,omitempty"`    // that it is about; none: all of them, or no node
	Mends    int           `json:"mends,omitempty"`    // of a mend: the number of the fault that it mends; 0: not said
	Done     string        `json:"done,omitempty"`     // what was done
	Evidence string        `json:"evidence,omitempty"` // what was seen: of a fault, the proof that it fired
	Error    string        `json:"error,omitempty"`    // why it failed
}

// Title is the name without the word for its kind, for who shows the kind beside it.
func (s Step) Title() string {
	for _, word := range []string{"expect ", "never ", "break: ", "mend: "} {
		if rest, ok := strings.CutPrefix(s.Name, word); ok && rest != "" {
			return rest
		}
	}
	return s.Name
}

// Reason is why the step failed; empty when it did not.
func (s Step) Reason() string {
	switch {
	case s.Status == StepPassed || s.Status == StepSkipped:
		return ""
	case s.Error != "":
		return s.Error
	case s.Status != StepFailed:
		return fmt.Sprintf("the step has no result (status %q)", string(s.Status))
	}
	return "failed, with no reason given"
}

// StepStatus is what came of a step.
type StepStatus string

// The statuses of a step.
const (
	StepPassed  StepStatus = "passed"
	StepFailed  StepStatus = "failed"
	StepSkipped StepStatus = "skipped" // a step before it failed
)

// RunNode is one node as it was at the end.
type RunNode struct {
	Name         string `json:"name"`             // in the lab
	UUID         string `json:"uuid"`             // of its agent
	Hostname     string `json:"hostname"`         // its contact address
	Address      string `json:"address"`          // in the cluster network
	State        string `json:"state"`            // as `keylab status` names it
	Detail       string `json:"detail,omitempty"` // what is wrong with it
	Attestations int    `json:"attestations"`     // how many times the verifier has been content with it
}

// Certificate is one that a CA of the lab issued.
type Certificate struct {
	Subject   string    `json:"subject"`             // of a CA; of an EK certificate, the node whose TPM it is for
	Kind      string    `json:"kind"`                // "root", "intermediate" or "EK"
	CA        string    `json:"ca"`                  // name of the CA in the lab
	Issuer    string    `json:"issuer"`              // common name
	Serial    string    `json:"serial"`              // hexadecimal
	SHA256    string    `json:"sha256"`              // of the DER, hexadecimal
	Issued    time.Time `json:"issued,omitzero"`     // absent: unknown
	NotBefore time.Time `json:"not_before,omitzero"` // first moment of its validity
	NotAfter  time.Time `json:"not_after,omitzero"`  // last moment of its validity
	Revoked   time.Time `json:"revoked,omitzero"`    // absent: it is not
	Trusted   bool      `json:"trusted,omitempty"`   // of a CA: in the tpm_cert_store at the end
	Note      string    `json:"note,omitempty"`      // e.g. "superseded", "not in the CA's record"
}

// Gap is what a node went without a good attestation, over the whole run.
type Gap struct {
	Node     string        `json:"node"`            // its name
	Longest  time.Duration `json:"longest_seconds"` // between two good ones that followed one another, or to the end
	At       time.Duration `json:"at_seconds"`      // when it began, from the run's start
	Refusals int           `json:"refusals"`        // enrolments that were refused
	Failures int           `json:"failures"`        // how often the verifier gave it up
	Count    int           `json:"attestations"`    // good ones seen
}

// Log is the end of a log.
type Log struct {
	Name string `json:"name"` // of the component
	Text string `json:"text"` // its last lines
}

// EntryKind is what an entry of the history tells.
type EntryKind string

// The kinds of entries.
const (
	EntryState   EntryKind = "state"   // a node's state changed
	EntryAttest  EntryKind = "attest"  // the verifier was content with a node again: Count is how often so far
	EntryAction  EntryKind = "action"  // a step of the scenario began or ended
	EntryCounter EntryKind = "counter" // counters of the network changed
	EntryNotice  EntryKind = "notice"  // the verifier told somebody of an agent
	EntryLab     EntryKind = "lab"     // a component of the lab changed its state
	EntryPoll    EntryKind = "poll"    // the lab could not be asked
)

// Entry is one line of the history: something that was observed.
type Entry struct {
	At     time.Duration     `json:"at_seconds"`       // monotonic, from the run's start
	Kind   EntryKind         `json:"kind"`             // what it tells
	Node   string            `json:"node,omitempty"`   // or the component
	State  string            `json:"state,omitempty"`  // that was reached
	Detail string            `json:"detail,omitempty"` // more about it, for people
	Count  int               `json:"count,omitempty"`  // of an attestation: how many there have been
	Step   int               `json:"step,omitempty"`   // number of the step that it belongs to
	Deltas map[string]uint64 `json:"deltas,omitempty"` // by which counters grew
}
