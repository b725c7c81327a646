package fleet

import (
	"crypto/x509"
	"fmt"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/verify"
)

// The states of a node.
const (
	StateStarting   = "starting"
	StateRegistered = "registered"
	StateForgotten  = "forgotten"
	StateEnrolled   = "enrolled"
	StateAttested   = "attested"
	StateRefused    = "refused"
	StateFailed     = "failed"
	StateOverdue    = "overdue" // push: no evidence for long; the next that is good makes it attested again
	StateLeaving    = "leaving" // the verifier was told to forget it, and has not yet
	StateTPMDead    = "tpm dead"
	StateAgentDead  = "agent dead"
	StateOff        = "off"
	StateUnknown    = "unknown"
)

// States are all states of a node.
var States = []string{
	StateStarting, StateRegistered, StateForgotten, StateEnrolled, StateAttested, StateRefused, StateFailed, StateOverdue, StateLeaving, StateTPMDead,
	StateAgentDead, StateOff, StateUnknown,
}

// Fault says what of a node is dead.
type Fault struct {
	State, Detail string
	// Hearsay: whoever says so may only have lost sight of the node. Once the verifier trusts it no more, its verdict is the state.
	Hearsay bool
}

// NodeFacts is what a substrate knows of a node, for its status.
type NodeFacts struct {
	control.Node         // name, UUID, hostname, address
	EKCertificate []byte // DER; empty: unknown, or there is none
	Fault         *Fault // nil: TPM and agent are well
	AgentStarted  bool   // it has been started and has registered
	Enrolled      verify.Enrolment
	IMA           bool // it measures files
	Forgotten     bool // verifier and registrar were told to forget it, and its agent has not registered since
}

// Status is the node's state by what the lab knows and what the verifier says of its agents, if it answered.
func (f NodeFacts) Status(attested map[string]keylime.VerifierAgent, attestedErr error) control.Node {
	c := f.Node
	c.State = StateStarting
	if len(f.EKCertificate) > 0 {
		if cert, err := x509.ParseCertificate(f.EKCertificate); err == nil {
			c.EKSerial = fmt.Sprintf("%X", cert.SerialNumber)
		}
	}
	v, known := attested[c.UUID]
	if known {
		c.AttestationCount = v.AttestationCount
		if !v.LastSuccessfulAttestation.IsZero() {
			c.LastSuccess = &v.LastSuccessfulAttestation
		}
	}
	fault := f.Fault
	if fault != nil && fault.Hearsay && f.Enrolled.OK && attestedErr == nil && known && (v.Overdue() || v.Untrusted()) {
		fault = nil
	}
	switch {
	case fault != nil:
		c.State, c.Detail = fault.State, fault.Detail
	case f.Enrolled.Done && !f.Enrolled.OK:
		c.State, c.Detail = StateRefused, f.Enrolled.Message
	case f.Forgotten:
		c.State, c.Detail = StateForgotten, fmt.Sprintf("verifier and registrar were told to forget it: `keylab node enrol %s` has it trusted again", c.Name)
	case !f.AgentStarted:
	case !f.Enrolled.Done:
		c.State = StateRegistered
	case attestedErr != nil:
		c.State, c.Detail = StateUnknown, attestedErr.Error()
	case !known:
		c.State, c.Detail = StateUnknown, "the verifier does not know this agent"
	case !v.Push() && v.OperationalState == keylime.Terminated:
		c.State = StateLeaving
	case v.Overdue():
		// Five quote intervals (push_agent_monitor.py).
		c.State, c.Detail = StateOverdue, "the verifier has had no evidence for five quote intervals"
	case v.Untrusted():
		c.State, c.Detail = StateFailed, fmt.Sprintf("verifier: %s", v.Verdict())
	case v.AttestationCount == 0:
		c.State = StateEnrolled
	default:
		c.State = StateAttested
	}
	if f.Fault != nil && fault == nil {
		c.Detail += "; " + f.Fault.State + ": " + f.Fault.Detail
	}
	c.Hint = f.hint(c.State, v)
	return c
}
