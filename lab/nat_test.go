package lab_test

import (
	"strings"
	"testing"

	"keylab.dev/keylab/lab/control"
)

// An agent of the pull model that is started behind a NAT router registers, and is there for the verifier when the router is gone.
func TestNATFault(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, "name: behind-nat\nnodes: 2\n"))
	nodes := []string{"node-2"}
	nat := control.Fault{Kind: control.FaultNAT, Nodes: nodes}
	mark := takeMark(t, l)
	inflict(t, l, nat)
	if p := fired(t, l, nat, mark); !strings.Contains(p.Evidence, "the NAT router has translated") {
		t.Error(p.Evidence)
	}
	inflict(t, l, control.Fault{Kind: control.FaultAgentRestart, Nodes: nodes})
	await(t, "the verifier to give node-2 up", func() bool { return node(t, l, "node-2").State == "failed" })
	if s := node(t, l, "node-1").State; s != "attested" {
		t.Errorf("node-1, which is behind no NAT router, is %s", s)
	}
	for want, f := range map[string]control.Fault{
		"put node-2 behind a NAT router: it is behind one already": nat,
		"impair node-2: it is behind a NAT router":                 {Kind: control.FaultLatency, Nodes: nodes},
	} {
		if _, err := l.Fault(t.Context(), f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	mend(t, l, nat)
	wantState(t, l, "node-2", "attested")
	notFired(t, l, nat, mark)
	verify(t, l)
}
