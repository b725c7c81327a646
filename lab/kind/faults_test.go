package kind

import (
	"strings"
	"testing"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
)

// What a cluster cannot do is refused with the reason.
func TestImpossibleFaults(t *testing.T) {
	l := &Lab{}
	l.planned.Keylime.Mode = string(spec.ModePush)
	for want, f := range map[string]control.Fault{
		"fault nat is not possible in this lab: the nodes of a kind cluster": {Kind: control.FaultNAT, Nodes: []string{"node-1"}},
	} {
		_, err := fleet.Break(t.Context(), l.faults(), f, func(string) (plan.Node, error) { return plan.Node{}, nil })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
