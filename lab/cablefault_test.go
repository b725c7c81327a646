package lab_test

import (
	"strings"
	"testing"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
)

// A bad cable makes attestation slow; only one that loses all makes the verifier give the node up.
func TestCableFaults(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, "name: cables\nnodes: 2\n"))
	nodes := []string{"node-2"}
	latency := control.Fault{Kind: control.FaultLatency, Nodes: nodes, Options: map[string]string{"delay": "50ms"}}
	loss := control.Fault{Kind: control.FaultLoss, Nodes: nodes, Options: map[string]string{"percent": "100%"}}

	if done, err := l.Fault(t.Context(), latency); err != nil || !strings.Contains(done, "(delay 50ms, jitter 0s)") {
		t.Fatalf("%q, %v", done, err)
	}
	moreAttestations(t, l)
	verify(t, l)

	// Both at once, and each taken away by itself.
	inflict(t, l, loss)
	await(t, "the verifier to give node-2 up", func() bool { return node(t, l, "node-2").State == "failed" })
	if s := node(t, l, "node-1").State; s != "attested" {
		t.Errorf("node-1, whose cable is good, is %s", s)
	}
	mark := takeMark(t, l)
	mend(t, l, loss)
	wantState(t, l, "node-2", "attested")
	fired(t, l, latency, mark)
	mend(t, l, latency)
	notFired(t, l, latency, mark)
	notFired(t, l, loss, mark)
	verify(t, l)

	for want, f := range map[string]control.Fault{
		`fault latency: option delay: "fast" is no duration`:               {Kind: control.FaultLatency, Nodes: nodes, Options: map[string]string{"delay": "fast"}},
		`fault latency: option delay: "-1s" is no duration`:                {Kind: control.FaultLatency, Nodes: nodes, Options: map[string]string{"delay": "-1s"}},
		`fault loss: option percent: "101" is no percentage from 0 to 100`: {Kind: control.FaultLoss, Nodes: nodes, Options: map[string]string{"percent": "101"}},
		`fault loss has no option "delay"; it has percent`:                 {Kind: control.FaultLoss, Nodes: nodes, Options: map[string]string{"delay": "1s"}},
	} {
		if _, err := l.Fault(t.Context(), f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", f, err, want)
		}
	}
}

func takeMark(t *testing.T, l *lab.Lab) control.Mark {
	t.Helper()
	m, err := l.Mark(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m
}
