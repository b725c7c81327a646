// Package fleet_test is to be copied: tests of a fleet that is attested by Keylime, on a machine without a TPM.
//
//	go get keylab.dev/keylab
//	go test -v -artifacts -outputdir /tmp/fleet
package fleet_test

import (
	"strings"
	"testing"

	"keylab.dev/keylab/keylabtest"
	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
)

func TestMain(m *testing.M) { keylabtest.Main(m) }

// Every machine is attested, each by its own TPM, and an agent that is lost costs no other machine anything.
func TestFleet(t *testing.T) {
	l := keylabtest.New(t, lab.Spec{Nodes: lab.Nodes{Count: 2}})
	l.Verify()

	mend := l.Break(control.Fault{Kind: "dead-agent", Nodes: []string{"node-2"}})
	l.WaitState("node-2", "agent dead")
	l.WaitAttested(2, "node-1")
	mend()
	l.WaitAttested(1, "node-2")

	if pcrs := l.Exec("node-1", "tpm2_pcrread", "sha256:16"); !strings.Contains(pcrs, "16: 0x") {
		t.Errorf("PCR 16 of node-1: %s", pcrs)
	}
}

// What the fleet has to withstand, as a scenario: `keylab run reboot.yaml` runs the same by hand.
func TestReboot(t *testing.T) {
	keylabtest.RunScenario(t, keylabtest.Scenario(t, "reboot.yaml"))
}
