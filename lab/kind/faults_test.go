package kind

import (
	"strings"
	"testing"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
)

func TestNATIsRefused(t *testing.T) {
	l := &Lab{}
	l.planned.Keylime.Mode = string(spec.ModePush)
	_, err := fleet.Break(t.Context(), l.faults(), control.Fault{Kind: control.FaultNAT, Nodes: []string{"node-1"}}, func(string) (plan.Node, error) { return plan.Node{}, nil })
	if err == nil || !strings.Contains(err.Error(), "fault nat is not possible in this lab: the nodes of a kind cluster") {
		t.Errorf("%v, want the reason why a node of a kind cluster is not put behind a NAT router", err)
	}
}
