package scenario

import (
	"strings"
	"testing"

	"keylab.dev/keylab/report"
)

// Disarmed, nothing is done to the lab, and a run passes if and only if its scenario fails for want of what was left out.
func TestDisarmed(t *testing.T) {
	const attested, reboot, fault = "  - expect: {nodes: [node-1], attestations: 1}\n", "  - {do: reboot, nodes: [node-1]}\n", "  - {fault: dead-agent, nodes: [node-1]}\n"
	for name, c := range map[string]struct {
		steps    string
		verdict  report.Verdict
		says     string // why it failed, or what it showed
		statuses string
	}{
		"the fault's effect does not come": {
			attested + reboot + fault + "  - {expect: {nodes: [node-1], state: failed}, within: 300ms}\n" + attested,
			report.Passed, "as it must, it failed without what was left out: step 4", "passed passed passed passed skipped",
		},
		"nothing is refused": {
			"  - {do: enrol, nodes: [node-1], refused: no}\n" + attested,
			report.Passed, "it was left out, and so nothing was refused", "passed skipped",
		},
		"only the fault's proof is missing": {
			attested + fault + attested, report.Passed, "every expectation was met without the fault dead-agent, but it was not seen to fire: looked", "passed passed passed",
		},
		"all is met": {
			reboot + attested, report.Failed, "every expectation was met though all was left out", "passed passed",
		},
		"fails before anything is left out": {
			"  - {expect: {nodes: [node-1], state: failed}, within: 300ms}\n" + fault, report.Failed, "nothing had been left out by then", "failed skipped",
		},
		"a good attestation that the fault rules out comes": {
			fault + attested + "  - {never: {nodes: [node-1], state: attested}, since: start}\n", report.Passed, "as it must, it failed without what was left out: step 3", "passed passed passed",
		},
		"a good attestation that no fault rules out comes": {
			"  - {fault: ingress-down}\n" + attested + "  - {never: {nodes: [node-1], state: attested}, since: start}\n", report.Failed, "nothing that was left out is about", "passed passed failed",
		},
		"an idle lab does not attest": {
			"  - {do: ek-trust, with: {ca: a}}\n  - {expect: {nodes: [node-1], attestations: 10000}, within: 300ms}\n", report.Failed, "nothing that was left out is about node-1", "passed failed",
		},
		"nothing to leave out": {attested, report.Passed, "there is nothing to leave out", "passed"},
		"nothing to leave out, and it fails": {
			"  - {expect: {nodes: [node-1], state: failed}, within: 300ms}\n" + attested, report.Failed, "waiting for node-1 failed", "failed skipped",
		},
	} {
		sc, err := Decode("f.yaml", []byte("apiVersion: keylab/v1alpha1\nkind: Scenario\nname: x\ntitle: X\nlab: {nodes: 1}\nsteps:\n"+c.steps))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f := &fakeLab{}
		r := &runner{scenario: sc, lab: f, cast: newCast(sc, 1), history: newHistory(), disarmed: true}
		verdict, why := r.steps(t.Context())
		if verdict != c.verdict || !strings.Contains(why+r.showed, c.says) || statuses(r) != c.statuses {
			t.Errorf("%s: %s: %q, %q, %s", name, verdict, why, r.showed, statuses(r))
		}
		if len(f.done) > 0 || f.broken {
			t.Errorf("%s: %v was done, broken: %v", name, f.done, f.broken)
		}
	}
}
