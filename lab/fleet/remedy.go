package fleet

import (
	"fmt"
	"strings"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/plan"
)

// What helps a node that Keylime's verifier trusts no more is another thing in each model. In the pull model it is asked no more until it is reactivated.
// In the push model its evidence is still taken, but a failure stays for as long as the agent is enrolled (_process_results in
// keylime/verification/tpm_engine.py): to reactivate it helps nothing.

// hint is the command that helps a node in a state, as a sentence; "": none does, or none is needed.
func (f NodeFacts) hint(state string, v keylime.VerifierAgent) string {
	name := f.Name
	switch state {
	case StateOff:
		return fmt.Sprintf("`keylab node start %s` starts it.", name)
	case StateRefused:
		return fmt.Sprintf("Once that is mended, `keylab node enrol %s` asks for it again.", name)
	case StateFailed:
		if v.Push() {
			return f.pushHint()
		}
		return pullHint(name, v.LastEventID)
	}
	return ""
}

// pullHint goes by the event: a TPM's clock that went backwards, and a boot that differs from the reference state, are held against what was enrolled.
func pullHint(name, event string) string {
	text := fmt.Sprintf("Once that is mended, `keylab node reactivate %s` has the verifier ask it again", name)
	switch {
	case strings.HasPrefix(event, "qoute_validation."): // Keylime spells it so
		text += fmt.Sprintf("; if its TPM lost its power, or is another, `keylab node enrol %s`", name)
	case strings.HasPrefix(event, "measured_boot."):
		text += fmt.Sprintf("; if its firmware is to be as it is, `keylab node enrol %s`", name)
	}
	return text + "."
}

func (f NodeFacts) pushHint() string {
	text := fmt.Sprintf("`keylab logs verifier` has the reason, which the verifier does not tell in the push model. Once that is mended, `keylab node enrol %s` has it trusted again", f.Name)
	if f.IMA {
		text += "; so it does after a start, " + continuedPCR
	}
	return text + "."
}

// continuedPCR is why a start fails a node of the push model that measures files, as in "…, …". Of a list from its beginning too the verifier expects that
// it goes on from PCR 10 as the last attestation that passed had it (attest_state in keylime/verification/tpm_engine.py). Where nothing was measured after
// either start the first evidence passes, since that value is reached before the first entry; and the next fails, for want of progress
// (check_quote_progress in keylime/agentstates.py).
const continuedPCR = "which fails every node that measures files: the verifier goes on from PCR 10 as it was before"

// afterStart says which command will help where a start leads to a failure that the verifier has not found yet.
func afterStart(k plan.Keylime, n plan.Node) string {
	if !k.Push() || n.IMA == nil {
		return ""
	}
	return fmt.Sprintf("; in the push model that is a start, %s; `keylab node enrol %s` has it trusted again", continuedPCR, n.Name)
}

// askedAgain is the command that has a node which was given up asked again.
func askedAgain(k plan.Keylime, n plan.Node) string {
	if k.Push() {
		return "keylab node enrol " + n.Name
	}
	return "keylab node reactivate " + n.Name
}

// forgives tells whether good evidence ends a failure in the push model.
func forgives(k plan.Keylime) bool {
	return strings.EqualFold(k.Options["verifier"]["auto_recover_attestation_failures"], "true")
}
