package lab_test

import (
	"slices"
	"strings"
	"testing"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
)

// Each fault breaks the checks that are about it, and no others; mended, everything holds again.
func TestFaults(t *testing.T) {
	t.Parallel()
	l := up(t, quick(t, "name: faults\nnodes: 3\n"))
	attested(t, l, 3)
	verify(t, l)

	tests := []struct {
		kind   string
		nodes  []string
		broken []string
		state  control.LabState
	}{
		{"flat-network", nil, []string{"no-shared-segment *"}, control.Running},
		{"open-router", nil, []string{"blocked *", "drops-counted *"}, control.Running},
		{"swapped-route", []string{"node-1", "node-3"}, of([]string{"node-1", "node-3"}, "certificate", "quote", "attested"), control.Degraded},
		{"dead-agent", []string{"node-2"}, of([]string{"node-2"}, "certificate", "quote", "attested"), control.Degraded},
		{"partition", []string{"node-2"}, append(of([]string{"node-2"}, "certificate", "quote", "attested"), "open node-2 → registrar:8890/tcp", "drops-counted dropped-cluster-to-services"), ""}, // degraded as soon as the verifier has waited long enough for its answer
	}
	for _, test := range tests {
		t.Run(test.kind, func(t *testing.T) {
			fault := control.Fault{Kind: test.kind, Nodes: test.nodes}
			if done, err := l.Fault(t.Context(), fault); err != nil || done == "" {
				t.Fatalf("break it: %q, %v", done, err)
			}
			settled(t, l, test.nodes)
			verify(t, l, test.broken...)
			if got := status(t, l).State; got != test.state && test.state != "" {
				t.Errorf("the broken lab is %s, want %s", got, test.state)
			}
			fault.Clear = true
			if done, err := l.Fault(t.Context(), fault); err != nil || done == "" {
				t.Fatalf("mend it: %q, %v", done, err)
			}
			verify(t, l)
			attested(t, l, 3)
		})
	}

	t.Run("mistakes", func(t *testing.T) {
		for want, f := range map[string]control.Fault{
			`there is no fault "fire"; there are flat-network, open-router, swapped-route, `: {Kind: "fire"},
			"fault swapped-route needs 2 node names, not 1":                                  {Kind: "swapped-route", Nodes: []string{"node-1"}},
			`the lab has no node "node-9"; it has node-1, node-2, node-3`:                    {Kind: "dead-agent", Nodes: []string{"node-9"}},
		} {
			if _, err := l.Fault(t.Context(), f); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want %q", f, err, want)
			}
		}
		attested(t, l, 3)
	})

	t.Run("dead-tpm", func(t *testing.T) {
		if _, err := l.Fault(t.Context(), control.Fault{Kind: "dead-tpm", Nodes: []string{"node-2"}}); err != nil {
			t.Fatal(err)
		}
		verify(t, l, of([]string{"node-2"}, "uuid", "ek-from-tpm", "ek-certificate", "quote", "attested")...)
		for _, n := range status(t, l).Nodes {
			if dead := n.Name == "node-2"; dead != (n.State == "tpm dead") {
				t.Errorf("%s is %s", n.Name, n.State)
			}
		}
		if _, err := l.Fault(t.Context(), control.Fault{Kind: "dead-tpm", Nodes: []string{"node-2"}, Clear: true}); err != nil {
			t.Fatal(err)
		}
		verify(t, l)
	})
}

// settled waits until no attestation that was under way when a node broke arrives any more: the counts stay as they are for longer than the verifier
// takes from one poll to the next.
func settled(t *testing.T, l *lab.Lab, nodes []string) {
	t.Helper()
	var last []int
	same := 0
	await(t, "the last attestations of broken nodes to arrive", func() bool {
		var now []int
		for _, n := range status(t, l).Nodes {
			if slices.Contains(nodes, n.Name) {
				now = append(now, n.AttestationCount)
			}
		}
		if slices.Equal(now, last) {
			same++
		} else {
			last, same = now, 0
		}
		return len(nodes) == 0 || same > 100 // of one every 10 ms and what status takes
	})
}
