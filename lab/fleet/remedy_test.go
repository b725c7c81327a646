package fleet

import (
	"strings"
	"testing"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/verify"
)

// A node that is not trusted has a hint, which names the command that helps in its model; one that is has none.
func TestHints(t *testing.T) {
	failed := func(event string) keylime.VerifierAgent {
		return keylime.VerifierAgent{IP: "a.agents", Port: 443, OperationalState: keylime.InvalidQuote, LastEventID: event}
	}
	for name, test := range map[string]struct {
		facts NodeFacts
		agent keylime.VerifierAgent
		state string
		hint  string // a part of it; "": there is none
		not   string // what it must not name
	}{
		"attested":               {NodeFacts{}, keylime.VerifierAgent{IP: "a.agents", Port: 443, OperationalState: keylime.GetQuote, AttestationCount: 1}, StateAttested, "", ""},
		"overdue":                {NodeFacts{}, keylime.VerifierAgent{AttestationStatus: "TIMEOUT"}, StateOverdue, "", ""},
		"pull, failed":           {NodeFacts{}, failed("ima.pcr_mismatch"), StateFailed, "`keylab node reactivate a` has the verifier ask it again.", "enrol"},
		"pull, its clock":        {NodeFacts{}, failed("qoute_validation.quote_validation"), StateFailed, "lost its power, or is another, `keylab node enrol a`.", ""},
		"pull, its boot":         {NodeFacts{}, failed("measured_boot.policy_example"), StateFailed, "its firmware is to be as it is, `keylab node enrol a`.", ""},
		"push, failed":           {NodeFacts{}, keylime.VerifierAgent{AttestationStatus: "FAIL"}, StateFailed, "`keylab node enrol a` has it trusted again.", "reactivate"},
		"push, failed, with IMA": {NodeFacts{IMA: true}, keylime.VerifierAgent{AttestationStatus: "FAIL"}, StateFailed, "the verifier goes on from PCR 10 as it was before.", "reactivate"},
		"off":                    {NodeFacts{Fault: &Fault{State: StateOff}}, keylime.VerifierAgent{}, StateOff, "`keylab node start a`", ""},
		"refused":                {NodeFacts{Enrolled: verify.Enrolment{Done: true}}, keylime.VerifierAgent{}, StateRefused, "`keylab node enrol a`", ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := test.facts
			f.Node, f.AgentStarted = control.Node{Name: "a", UUID: "u"}, true
			if !f.Enrolled.Done {
				f.Enrolled = verify.Enrolment{Done: true, OK: true}
			}
			s := f.Status(map[string]keylime.VerifierAgent{"u": test.agent}, nil)
			if s.State != test.state || (s.Hint == "") != (test.hint == "") || !strings.Contains(s.Hint, test.hint) || test.not != "" && strings.Contains(s.Hint, test.not) {
				t.Errorf("%s, %q, want %s, %q", s.State, s.Hint, test.state, test.hint)
			}
		})
	}
}

// After a start it is said what will help, where a failure has been found, and where one is to come.
func TestStarts(t *testing.T) {
	push, pull := plan.Keylime{Mode: "push"}, plan.Keylime{Mode: "pull"}
	plain, measuring := plan.Node{Name: "a"}, plan.Node{Name: "a", IMA: &plan.IMA{}}
	if got := askedAgain(pull, plain); got != "keylab node reactivate a" {
		t.Error(got)
	}
	if got := askedAgain(push, plain); got != "keylab node enrol a" {
		t.Error(got)
	}
	for name, got := range map[string]string{"pull": afterStart(pull, measuring), "nothing measured": afterStart(push, plain)} {
		if got != "" {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := afterStart(push, measuring); !strings.Contains(got, "`keylab node enrol a`") {
		t.Error(got)
	}
	forgiving := plan.Keylime{Mode: "push", Options: map[string]map[string]string{"verifier": {"auto_recover_attestation_failures": "True"}}}
	if forgives(push) || !forgives(forgiving) {
		t.Error("only the option auto_recover_attestation_failures has failures forgiven")
	}
}
