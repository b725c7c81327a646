package parity

import (
	"context"
	"fmt"
	"time"

	"keylab.dev/keylab/keylime"
)

// Verdict is what the verifier says of an agent.
type Verdict struct {
	State    string `json:"operational_state,omitempty"` // empty in the push model, where it means nothing
	Status   string `json:"attestation_status"`
	Event    string `json:"last_event_id,omitempty"`
	Severity int    `json:"severity_level,omitempty"`
	// Before is what became of what was done, where that can fail: "the agent does not start".
	Before string `json:"before,omitempty"`
	// Payload is what is in the node's memory, where the case asks: "delivered", "nothing".
	Payload string `json:"payload,omitempty"`
	// Actions is which revocation actions the agent ran and what they were told, where the case asks.
	Actions string `json:"actions,omitempty"`
}

func (v Verdict) String() string {
	text := v.Status
	if v.State != "" {
		text = v.State + ", " + text
	}
	if v.Event != "" {
		text += fmt.Sprintf(", %s (severity %d)", v.Event, v.Severity)
	}
	if v.Before != "" {
		text = v.Before + "; " + text
	}
	if v.Payload != "" {
		text += "; payload: " + v.Payload
	}
	if v.Actions != "" {
		text += "; actions: " + v.Actions
	}
	return text
}

const (
	// goodQuotes is how many more good quotes make a verdict: the first may have been under way when something was done to the agent.
	goodQuotes = 4
	// verdictPatience is how long the verifier may take to come to a verdict.
	verdictPatience = 2 * time.Minute
)

// awaitVerdict asks the verifier until it has given the agent up, or has had goodQuotes more good quotes.
func awaitVerdict(ctx context.Context, v *keylime.VerifierClient, uuid string) (Verdict, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, verdictPatience, fmt.Errorf("no verdict of the verifier within %s", verdictPatience))
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	first, last := -1, "none"
	var late time.Time // since when the agent is overdue
	for {
		a, err := v.Agent(ctx, uuid)
		switch {
		case err != nil:
			last = err.Error()
		case first < 0 || a.AttestationCount < first: // it was enrolled anew
			first = a.AttestationCount
		}
		if err == nil {
			last = a.Verdict()
			switch {
			case !a.Overdue():
				late = time.Time{}
			case late.IsZero():
				late = time.Now()
			}
			if verdictOn(a) && (!a.Overdue() || time.Since(late) > overdue) || a.AttestationCount >= first+goodQuotes {
				return verdictOf(a), nil
			}
		}
		select {
		case <-ctx.Done():
			return Verdict{}, fmt.Errorf("agent %s: %w; the last answer: %s", uuid, context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}

// verdictOn tells whether the verifier's trust has ended.
func verdictOn(a *keylime.VerifierAgent) bool {
	if a.Push() {
		return a.Untrusted()
	}
	return a.OperationalState.Stopped()
}

func verdictOf(a *keylime.VerifierAgent) Verdict {
	if a.Push() {
		return Verdict{Status: a.AttestationStatus}
	}
	return Verdict{State: a.OperationalState.String(), Status: a.AttestationStatus, Event: a.LastEventID, Severity: a.SeverityLevel}
}
