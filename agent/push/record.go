package push

import (
	"net/http"
	"slices"
	"time"
)

// Verdict is what the verifier has said of an attempt to attest. More than this an
// agent does not learn: whether accepted evidence passes is decided later.
type Verdict string

// Verdicts.
const (
	NotSent  Verdict = "not sent" // no evidence got to the verifier, as far as the agent knows
	Accepted Verdict = "accepted" // evidence complete and in form (202); verification follows
	Refused  Verdict = "refused"  // the verifier did not take the evidence
)

// Steps of an attempt to attest.
const (
	StepSession   = "session"   // POST /v3.0/sessions: a challenge to prove the AK
	StepProof     = "proof"     // PATCH /v3.0/sessions/{session}: the proof for a token
	StepNegotiate = "negotiate" // POST /v3.0/agents/{id}/attestations: what evidence there is
	StepEvidence  = "evidence"  // PATCH /v3.0/agents/{id}/attestations/{index}
)

// Exchange is one HTTP request to the verifier.
type Exchange struct {
	Step     string
	Status   int // HTTP status; 0: there was no answer
	Duration time.Duration
}

// Attestation is one attempt to attest, from the first request to the last.
type Attestation struct {
	Started, Finished time.Time
	Exchanges         []Exchange
	Location          string // path of the attestation at the verifier; "" if it made none
	Index             int    // number of it among the agent's, from 0; -1 if there is none
	Challenge         string // of the quote, in hexadecimal; "" if none was asked for
	PCRs              []uint // quoted PCRs, ascending
	Verdict           Verdict
	Next              time.Duration // pause after this attempt, as Run decided
	Err               error         // why it failed, or what was wrong with an accepting answer
}

// Status is the HTTP status of the last request of a step; 0: none was made, or it
// got no answer.
func (a *Attestation) Status(step string) int {
	for _, e := range slices.Backward(a.Exchanges) {
		if e.Step == step {
			return e.Status
		}
	}
	return 0
}

// Stats counts what an agent did.
type Stats struct {
	Attempts     uint64    // ended attempts to attest
	Accepted     uint64    // those whose evidence the verifier accepted
	Sessions     uint64    // tokens got from the verifier
	LastAccepted time.Time // zero: never
}

// count takes an ended attempt into account.
func (s *Stats) count(record *Attestation) {
	s.Attempts++
	for _, e := range record.Exchanges {
		if e.Step == StepProof && e.Status == http.StatusOK {
			s.Sessions++
		}
	}
	if record.Verdict == Accepted {
		s.Accepted++
		s.LastAccepted = record.Finished
	}
}
