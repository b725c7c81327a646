package control

import (
	"time"

	"keylab.dev/keylab/netlab"
)

// LabState is what a lab as a whole is doing.
type LabState string

// The states of a lab.
const (
	Starting LabState = "starting"
	Running  LabState = "running"
	Degraded LabState = "degraded" // up, but a component or a node is not well
	Stopping LabState = "stopping"
	Stopped  LabState = "stopped" // has a folder, but does not run
	Remains  LabState = "remains" // has no folder any more, but something of it is left in Docker
)

// Status is a lab at one moment.
type Status struct {
	Lab        string      `json:"lab"`
	Substrate  string      `json:"substrate"`
	State      LabState    `json:"state"`
	Started    time.Time   `json:"started,omitzero"`
	PID        int         `json:"pid,omitempty"` // the supervisor's, in the PID namespace of who asks
	Components []Component `json:"components"`
	Nodes      []Node      `json:"nodes"`
}

// Component is one part of the lab that is not a node: registrar, verifier, dns, ingress, router.
type Component struct {
	Name    string `json:"name"`
	State   string `json:"state"` // running, starting, dead
	Address string `json:"address,omitempty"`
	Detail  string `json:"detail,omitempty"` // of a dead one: how it ended
}

// Node is one node: its TPM, its agent, and what the verifier says of it.
type Node struct {
	Name             string     `json:"name"`
	UUID             string     `json:"uuid"`
	EKSerial         string     `json:"ek_serial"` // of the EK certificate, hexadecimal
	Address          string     `json:"address"`
	Hostname         string     `json:"hostname"` // contact address
	State            string     `json:"state"`    // attested, enrolled, registered, refused, failed, overdue, tpm dead, agent dead, unknown, …
	Detail           string     `json:"detail,omitempty"`
	Hint             string     `json:"hint,omitempty"` // which command helps, as a sentence
	AttestationCount int        `json:"attestation_count"`
	LastSuccess      *time.Time `json:"last_success"` // nil before the first
}

// Event is one line of a lab's progress.
type Event struct {
	Time    time.Time     `json:"time"`
	Step    string        `json:"step,omitempty"`
	State   string        `json:"state"` // start, done, failed, stopped, undone, undo-failed, note; ready and ended close the stream
	Elapsed time.Duration `json:"elapsed,omitempty"`
	Text    string        `json:"text,omitempty"`
	Error   string        `json:"error,omitempty"`
}

// States of Event beside those of package steps. Ready and ended close the progress.
const (
	EventNote  = "note"
	EventReady = "ready"
	EventEnded = "ended"
)

// Notice is what the verifier told somebody of an agent that it no longer trusts.
type Notice struct {
	Received time.Time `json:"received"`
	Receiver string    `json:"receiver"`           // "webhook", or the node whose agent was told
	Agent    string    `json:"agent"`              // UUID of the agent that it is about
	Node     string    `json:"node,omitempty"`     // its node; none of the lab's: ""
	Type     string    `json:"type"`               // revocation or comm_error, in Keylime's words
	Event    string    `json:"event"`              // Keylime's event id
	Severity string    `json:"severity,omitempty"` // in Keylime's words
	Signed   bool      `json:"signed"`             // the signature is there, and is the verifier's
	Problem  string    `json:"problem,omitempty"`  // why it is not
	// Actions are the programs that the agent ran therefore, once all have ended.
	Actions []ActionRun `json:"actions,omitempty"`
	// Number is the receiver's own count of notices.
	Number uint64 `json:"-"`
}

// ActionRun is how a revocation action ended.
type ActionRun struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`                // it ended with 0
	Problem string `json:"problem,omitempty"` // else: why it did not run, or how it failed
}

// ReceiverWebhook is the Receiver of notices that came to the lab's own receiver.
const ReceiverWebhook = "webhook"

// Network is the answer of `keylab net`.
type Network struct {
	netlab.Inspection
	Rules    []netlab.Rule       `json:"rules"`
	Counters []netlab.Counter    `json:"counters"`
	Ingress  netlab.IngressStats `json:"ingress"`
	Routes   map[string]string   `json:"routes"`   // ingress: hostname to the agent's address
	Arrivals map[string]uint64   `json:"arrivals"` // new connections at each agent, by address, as its node\'s kernel counted them
	DNS      map[string]uint64   `json:"dns"`      // queries by kind of answer
}

// Command is a program to run on one of the lab's hosts.
type Command struct {
	Host string   `json:"host"`
	Argv []string `json:"argv"`
	Env  []string `json:"env"` // beside the caller's own
}
