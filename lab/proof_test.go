package lab_test

import (
	"context"
	"reflect"
	"sync"
	"testing"
	"time"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
)

// A fault is seen while it lasts, and neither before nor after; and it is not taken for another.
func TestFaultsAreSeen(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, "name: proofs\nnodes: 3\n"))
	faults := []control.Fault{
		{Kind: control.FaultFlatNetwork},
		{Kind: control.FaultOpenRouter},
		{Kind: control.FaultSwappedRoute, Nodes: []string{"node-1", "node-3"}},
		{Kind: control.FaultDeadAgent, Nodes: []string{"node-2"}},
		{Kind: control.FaultPartition, Nodes: []string{"node-2"}},
		{Kind: control.FaultDeadTPM, Nodes: []string{"node-2"}},
		{Kind: control.FaultAgentKilled, Nodes: []string{"node-2"}},
		{Kind: control.FaultAgentRestart, Nodes: []string{"node-2"}},
		{Kind: control.FaultServiceDown, Component: "registrar"},
		{Kind: control.FaultServiceKilled, Component: "verifier"},
		{Kind: control.FaultServiceRestart, Component: "verifier"},
		{Kind: control.FaultDatabaseFull, Component: "verifier"},
		{Kind: control.FaultUnknownName, Nodes: []string{"node-2"}},
		{Kind: control.FaultIngressDown},
		{Kind: control.FaultIngressRestart},
		{Kind: control.FaultMovedAddress},
		{Kind: control.FaultDNSFailure},
		{Kind: control.FaultDNSFailure, Options: map[string]string{"answer": control.DNSNothing}},
		{Kind: control.FaultLatency, Nodes: []string{"node-2"}, Options: map[string]string{"delay": "100ms", "jitter": "10ms"}},
		{Kind: control.FaultLoss, Nodes: []string{"node-2"}},
		{Kind: control.FaultNAT, Nodes: []string{"node-2"}},
	}
	for _, f := range faults {
		t.Run(f.Kind, func(t *testing.T) {
			mark, err := l.Mark(t.Context())
			if err != nil || mark.Router == nil || len(mark.Arrivals) != 3 || len(mark.Attestations) != 3 || mark.DNS == nil {
				t.Fatalf("mark of a lab that is well: %+v, %v", mark, err)
			}
			notFired(t, l, f, mark)
			inflict(t, l, f)
			p := fired(t, l, f, mark)
			t.Log(p.Evidence)
			var others sync.WaitGroup
			for _, other := range faults {
				restarts := f.Kind == control.FaultDatabaseFull && other.Kind == control.FaultServiceRestart // which it does the first time
				if !reflect.DeepEqual(other, f) && !restarts {
					others.Go(func() { notFired(t, l, other, mark) })
				}
			}
			others.Wait()
			if k, _ := control.FaultKindOf(f.Kind); k.Momentary {
				if mark, err = l.Mark(t.Context()); err != nil {
					t.Fatal(err)
				}
			} else {
				mend(t, l, f)
			}
			notFired(t, l, f, mark)
		})
	}
	t.Run("a node that is off", func(t *testing.T) {
		mark, err := l.Mark(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		act(t, l, control.ActionStop, "node-2")
		for _, f := range faults {
			notFired(t, l, f, mark)
		}
	})
}

// fired waits until a fault is seen.
func fired(t *testing.T, l *lab.Lab, f control.Fault, since control.Mark) (p control.Proof) {
	t.Helper()
	await(t, "the effect of "+f.Kind+" to be seen", func() bool {
		p = ask(t, l, f, since)
		return p.Fired
	})
	return p
}

func notFired(t *testing.T, l *lab.Lab, f control.Fault, since control.Mark) {
	t.Helper()
	if p := ask(t, l, f, since); p.Fired {
		t.Errorf("%s %v is seen where it is not: %s", f.Kind, f.Nodes, p.Evidence)
	}
}

func ask(t *testing.T, l *lab.Lab, f control.Fault, since control.Mark) control.Proof {
	t.Helper()
	p, err := l.Fired(t.Context(), f, since)
	if err != nil {
		t.Errorf("%s: %v", f.Kind, err)
	}
	if p.Evidence == "" {
		t.Errorf("%s: fired is %v, without evidence", f.Kind, p.Fired)
	}
	return p
}

func inflict(t *testing.T, l *lab.Lab, f control.Fault) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if done, err := l.Fault(ctx, f); err != nil || done == "" {
		t.Fatalf("%s, clear %v: %q, %v", f.Kind, f.Clear, done, err)
	}
}

func mend(t *testing.T, l *lab.Lab, f control.Fault) {
	t.Helper()
	f.Clear = true
	inflict(t, l, f)
}
