package fleet

import (
	"errors"
	"strings"
	"testing"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/verify"
)

// A cluster that has lost sight of a node counts less than a verifier that has given it up; what is known for certain counts more.
func TestStatusVerdictBeforeHearsay(t *testing.T) {
	const uuid = "d432fbb3-d2f1-4a97-9ef7-75bd81c00000"
	trusted := keylime.VerifierAgent{IP: "node.test", Port: 443, OperationalState: keylime.GetQuote, AttestationCount: 3}
	givenUp := keylime.VerifierAgent{IP: "node.test", Port: 443, OperationalState: keylime.Failed, LastEventID: "not_reachable", AttestationCount: 3}
	overdue := keylime.VerifierAgent{AttestationStatus: "TIMEOUT", AttestationCount: 3}
	hearsay := &Fault{State: StateAgentDead, Detail: "its pod is not ready", Hearsay: true}
	dead := &Fault{State: StateTPMDead, Detail: "it was killed"}
	for name, c := range map[string]struct {
		verifier keylime.VerifierAgent
		err      error
		fault    *Fault
		state    string
		detail   []string
	}{
		"given up and out of sight": {givenUp, nil, hearsay, StateFailed, []string{"not_reachable", "agent dead: its pod is not ready"}},
		"overdue and out of sight":  {overdue, nil, hearsay, StateOverdue, []string{"no evidence", "agent dead: its pod is not ready"}},
		"out of sight":              {trusted, nil, hearsay, StateAgentDead, []string{"its pod is not ready"}},
		"nobody answers":            {trusted, errors.New("refused"), hearsay, StateAgentDead, []string{"its pod is not ready"}},
		"given up and dead":         {givenUp, nil, dead, StateTPMDead, []string{"it was killed"}},
		"given up":                  {givenUp, nil, nil, StateFailed, []string{"not_reachable"}},
	} {
		f := NodeFacts{Node: control.Node{Name: "a", UUID: uuid}, AgentStarted: true, Enrolled: verify.Enrolment{Done: true, OK: true}, Fault: c.fault}
		got := f.Status(map[string]keylime.VerifierAgent{uuid: c.verifier}, c.err)
		if got.State != c.state {
			t.Errorf("%s: %s (%s), want %s", name, got.State, got.Detail, c.state)
		}
		for _, want := range c.detail {
			if !strings.Contains(got.Detail, want) {
				t.Errorf("%s: %q does not say %q", name, got.Detail, want)
			}
		}
	}
}
