package report

import "time"

// RunSchema names the form of a Run in JSON. A field may be added without a new name; one that is removed or changes its meaning needs one.
const RunSchema = "keylab.dev/run/v1alpha1"

// Run is what happened in one run of a scenario: all that its reports are made of.
type Run struct {
	Schema   string `json:"schema"` // RunSchema
	Scenario string `json:"scenario"`
	Title    string `json:"title"`
	// What the scenario's page says: the question, what happens, why, and what it means for a fleet. Plain text in paragraphs.
	Question string `json:"question,omitempty"`
	Happens  string `json:"happens,omitempty"`
	Why      string `json:"why,omitempty"`
	Fleet    string `json:"fleet,omitempty"`

	Lab       string `json:"lab"`
	Substrate string `json:"substrate"` // netns or kind
	Mode      string `json:"mode"`      // pull or push
	Keylime   string `json:"keylime"`   // its version
	Agent     string `json:"agent"`     // kind of the nodes' agents
	Keylab    string `json:"keylab,omitempty"`
	Seed      uint64 `json:"seed"` // of the random choices

	Started  time.Time     `json:"started"`
	Duration time.Duration `json:"duration_ns"`
	Verdict  Verdict       `json:"verdict"`
	Error    string        `json:"error,omitempty"` // why it is not Passed, in one sentence

	Steps        []Step        `json:"steps"`
	Nodes        []RunNode     `json:"nodes"`
	Certificates []Certificate `json:"certificates"`
	Gaps         []Gap         `json:"gaps"`
	Runbook      []string      `json:"runbook,omitempty"` // the commands that an operator would have run against a real Keylime
	Logs         []Log         `json:"logs,omitempty"`    // of what failed: the last lines
	Topology     string        `json:"-"`                 // a picture of the lab, SVG; made by package graph
	History      []Entry       `json:"history"`
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
	Number   int           `json:"number"` // from 1; 0: the lab's own, before and after
	Kind     StepKind      `json:"kind"`
	Name     string        `json:"name"` // one line for people
	Status   StepStatus    `json:"status"`
	At       time.Duration `json:"at_ns"`
	Duration time.Duration `json:"duration_ns"`
	Nodes    []string      `json:"nodes,omitempty"`    // that it is about; none: all of them, or no node
	Done     string        `json:"done,omitempty"`     // what was done
	Evidence string        `json:"evidence,omitempty"` // what was seen: of a fault, the proof that it fired
	Error    string        `json:"error,omitempty"`
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
	Name     string `json:"name"`
	UUID     string `json:"uuid"`
	Hostname string `json:"hostname"`
	Address  string `json:"address"`
	State    string `json:"state"`
	Detail   string `json:"detail,omitempty"`
	// Attestations is how many times the verifier has been content with it.
	Attestations int `json:"attestations"`
}

// Certificate is one that a CA of the lab issued.
type Certificate struct {
	Subject   string    `json:"subject"`           // of a CA; of an EK certificate, the node whose TPM it is for
	Kind      string    `json:"kind"`              // "root", "intermediate" or "EK"
	CA        string    `json:"ca"`                // name of the CA in the lab
	Issuer    string    `json:"issuer"`            // common name
	Serial    string    `json:"serial"`            // hexadecimal
	SHA256    string    `json:"sha256"`            // of the DER, hexadecimal
	Issued    time.Time `json:"issued"`            // zero: unknown
	NotBefore time.Time `json:"not_before"`        //
	NotAfter  time.Time `json:"not_after"`         //
	Revoked   time.Time `json:"revoked,omitzero"`  //
	Trusted   bool      `json:"trusted,omitempty"` // of a CA: in the tpm_cert_store at the end
	Note      string    `json:"note,omitempty"`    // e.g. "superseded", "not in the CA's record"
}

// Gap is what a node went without a good attestation, over the whole run.
type Gap struct {
	Node     string        `json:"node"`
	Longest  time.Duration `json:"longest_ns"`   // between two good ones that followed one another, or to the end
	At       time.Duration `json:"at_ns"`        // when it began, from the run's start
	Refusals int           `json:"refusals"`     // enrolments that were refused
	Failures int           `json:"failures"`     // how often the verifier gave it up
	Count    int           `json:"attestations"` // good ones seen
}

// Log is the end of a log.
type Log struct {
	Name string `json:"name"`
	Text string `json:"text"`
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

// Entry is one line of the history: something that was observed. At is monotonic, from the run's start.
type Entry struct {
	At     time.Duration     `json:"at_ns"`
	Kind   EntryKind         `json:"kind"`
	Node   string            `json:"node,omitempty"` // or the component
	State  string            `json:"state,omitempty"`
	Detail string            `json:"detail,omitempty"`
	Count  int               `json:"count,omitempty"`
	Step   int               `json:"step,omitempty"`
	Deltas map[string]uint64 `json:"deltas,omitempty"` // by which counters grew
}
