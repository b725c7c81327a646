package lab_test

import (
	"strings"
	"testing"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
)

// Services and agents end and come back: what the rest of the lab makes of it, and that nothing is lost.
func TestServiceFaults(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, "name: services\nnodes: 2\n"))

	t.Run("attestation goes on without the registrar", func(t *testing.T) {
		f := control.Fault{Kind: control.FaultServiceDown, Component: plan.Registrar}
		inflict(t, l, f)
		wantComponent(t, l, plan.Registrar, "dead")
		if s := status(t, l).State; s != control.Degraded {
			t.Errorf("the lab is %s, want degraded", s)
		}
		moreAttestations(t, l)
		mend(t, l, f)
		wantComponent(t, l, plan.Registrar, "running")
		verify(t, l) // it knows all agents still
	})
	t.Run("a killed verifier takes up where it was", func(t *testing.T) {
		before := counts(t, l)
		f := control.Fault{Kind: control.FaultServiceKilled, Component: plan.Verifier}
		inflict(t, l, f)
		wantComponent(t, l, plan.Verifier, "dead")
		for _, n := range status(t, l).Nodes {
			if n.State != "unknown" {
				t.Errorf("%s is %s without a verifier to ask, want unknown", n.Name, n.State)
			}
		}
		mend(t, l, f)
		wantComponent(t, l, plan.Verifier, "running")
		verify(t, l)
		for name, count := range counts(t, l) {
			if count <= before[name] {
				t.Errorf("%s has %d attestations, and %d before: the verifier has lost its database", name, count, before[name])
			}
		}
	})
	t.Run("a full disk", func(t *testing.T) {
		f := control.Fault{Kind: control.FaultDatabaseFull, Component: plan.Verifier}
		mark := takeMark(t, l)
		inflict(t, l, f)
		t.Log(fired(t, l, f, mark).Evidence)
		// The verifier goes on asking, but keeps nothing: what it says of the nodes is what it knew when the disk was full.
		settled(t, l, []string{"node-1", "node-2"})
		for _, n := range status(t, l).Nodes {
			if n.State != "attested" {
				t.Errorf("%s is %s (%s)", n.Name, n.State, n.Detail)
			}
		}
		verify(t, l, "attested *")
		mend(t, l, f)
		notFired(t, l, f, mark)
		verify(t, l)
		inflict(t, l, f)
		mend(t, l, f)
		verify(t, l)

		f.Component, mark = plan.Registrar, takeMark(t, l)
		inflict(t, l, f)
		notFired(t, l, f, mark) // nobody has registered
		mend(t, l, f)
		verify(t, l)
	})
	t.Run("restarts", func(t *testing.T) {
		for _, f := range []control.Fault{
			{Kind: control.FaultServiceRestart, Component: plan.Registrar},
			{Kind: control.FaultServiceRestart, Component: plan.Verifier},
			{Kind: control.FaultAgentRestart, Nodes: []string{"node-1"}},
		} {
			inflict(t, l, f)
			moreAttestations(t, l)
			verify(t, l)
		}
	})
	t.Run("a killed agent is given up, and trusted again once it is back", func(t *testing.T) {
		f := control.Fault{Kind: control.FaultAgentKilled, Nodes: []string{"node-2"}}
		inflict(t, l, f)
		wantState(t, l, "node-2", "agent dead")
		settled(t, l, f.Nodes)
		verify(t, l, of(f.Nodes, "certificate", "quote", "attested")...)
		mend(t, l, f)
		verify(t, l)
	})
	t.Run("mistakes", func(t *testing.T) {
		for want, f := range map[string]control.Fault{
			`fault service-down needs a component, registrar or verifier, not "tenant"`:     {Kind: control.FaultServiceDown, Component: "tenant"},
			`fault service-down needs a component, registrar or verifier, not ""`:           {Kind: control.FaultServiceDown},
			`fault partition is about no component, but verifier was given`:                 {Kind: control.FaultPartition, Nodes: []string{"node-1"}, Component: "verifier"},
			`fault partition has no option "delay"; it has none`:                            {Kind: control.FaultPartition, Nodes: []string{"node-1"}, Options: map[string]string{"delay": "1s"}},
			`fault service-restart is over once it was inflicted: there is nothing to mend`: {Kind: control.FaultServiceRestart, Component: "verifier", Clear: true},
			`fault swapped-route needs two different nodes, not node-1 twice`:               {Kind: control.FaultSwappedRoute, Nodes: []string{"node-1", "node-1"}},
			`fault service-killed: the registrar does not run`:                              {Kind: control.FaultServiceKilled, Component: "registrar"},
			`fault agent-killed: no agent runs on node-1`:                                   {Kind: control.FaultAgentKilled, Nodes: []string{"node-1"}},
		} {
			if strings.HasPrefix(want, "fault service-killed") {
				inflict(t, l, f)
			}
			if strings.HasPrefix(want, "fault agent-killed") {
				inflict(t, l, f)
			}
			if _, err := l.Fault(t.Context(), f); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %q", f, err, want)
			}
		}
	})
}

func wantComponent(t *testing.T, l *lab.Lab, name, state string) {
	t.Helper()
	for _, c := range status(t, l).Components {
		if c.Name == name && c.State != state {
			t.Errorf("%s is %s (%s), want %s", name, c.State, c.Detail, state)
		}
	}
}

// counts are the verifier's attestation counts by node.
func counts(t *testing.T, l *lab.Lab) map[string]int {
	t.Helper()
	m := map[string]int{}
	for _, n := range status(t, l).Nodes {
		m[n.Name] = n.AttestationCount
	}
	return m
}

// moreAttestations waits until each node has been attested twice more: once may have been under way.
func moreAttestations(t *testing.T, l *lab.Lab) {
	t.Helper()
	before := counts(t, l)
	await(t, "two more attestations of each node", func() bool {
		for name, count := range counts(t, l) {
			if count < before[name]+2 {
				return false
			}
		}
		return true
	})
}
