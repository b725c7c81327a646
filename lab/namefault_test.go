package lab_test

import (
	"testing"

	"keylab.dev/keylab/lab/control"
)

// The way by a name to an agent breaks at each of its ends: whom that hits, and that it is well again afterwards.
func TestNameFaults(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, "name: names\nnodes: 2\n"))
	both := []string{"node-1", "node-2"}
	givenUp := func(nodes ...string) {
		t.Helper()
		for _, n := range nodes {
			await(t, "the verifier to give "+n+" up", func() bool { return node(t, l, n).State == "failed" })
		}
	}

	t.Run("the ingress does not know one name", func(t *testing.T) {
		f := control.Fault{Kind: control.FaultUnknownName, Nodes: []string{"node-2"}}
		inflict(t, l, f)
		givenUp("node-2")
		verify(t, l, of(f.Nodes, "certificate", "quote", "attested")...)
		// Mended without a word to the verifier it is not asked again until somebody says so.
		f.Leave = true
		mend(t, l, f)
		verify(t, l, of(f.Nodes, "attested")...)
		wantState(t, l, "node-2", "failed")
		act(t, l, control.ActionReactivate, "node-2")
		verify(t, l)
	})
	t.Run("an ingress that was restarted has lost no name", func(t *testing.T) {
		inflict(t, l, control.Fault{Kind: control.FaultIngressRestart})
		verify(t, l)
	})
	t.Run("who asks by name follows the load balancer", func(t *testing.T) {
		f := control.Fault{Kind: control.FaultMovedAddress}
		inflict(t, l, f)
		moreAttestations(t, l)
		verify(t, l)
		mend(t, l, f)
		verify(t, l)
	})
	t.Run("without an ingress nobody is attested", func(t *testing.T) {
		f := control.Fault{Kind: control.FaultIngressDown}
		inflict(t, l, f)
		wantComponent(t, l, "ingress", "dead")
		givenUp(both...)
		mend(t, l, f)
		wantComponent(t, l, "ingress", "running")
		verify(t, l)
	})
	t.Run("without DNS nobody is attested", func(t *testing.T) {
		f := control.Fault{Kind: control.FaultDNSFailure}
		inflict(t, l, f)
		givenUp(both...)
		verify(t, l, of(both, "dns", "attested")...) // by its address the ingress leads to the agents still
		mend(t, l, f)
		verify(t, l)
	})
}
