package bench

import (
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/lab"
)

func TestPhases(t *testing.T) {
	began := time.Now()
	after := func(s float64) time.Time { return began.Add(time.Duration(s * float64(time.Second))) }
	var up labStart
	for _, e := range []lab.Event{
		{Step: "tpm/node-1", State: "start", Time: after(0.5)},
		{Step: "tpm/node-2", State: "start", Time: after(0.6)},
		{Step: "network", State: "start", Time: after(0.1)},
		{Step: "network", State: "done", Time: after(0.3)},
		{Step: "tpm/node-2", State: "done", Time: after(1)},
		{Step: "tpm/node-1", State: "note", Time: after(1.5)},
		{Step: "tpm/node-1", State: "done", Time: after(2)},
		{State: "ready", Time: after(3)},
	} {
		up.phases.event(began, e)
	}
	figures := phaseFigures([]labStart{up})
	if len(figures) != 2 {
		t.Fatalf("got %+v", figures)
	}
	network, tpm := figures[0], figures[1] // in the order in which they ended
	if !strings.Contains(network.Name, "network") || network.Summary.Median != 0.3 {
		t.Errorf("the network's phase is %+v", network)
	}
	if !strings.Contains(tpm.Name, "tpm") || tpm.Summary.Median != 2 || !strings.Contains(tpm.Note, "0.50") {
		t.Errorf("the TPMs' phase, from the first start at 0.5 s to the last end at 2 s, is %+v", tpm)
	}
}

func TestProcessorTimeByPart(t *testing.T) {
	a := labStart{cpu: map[string]time.Duration{partTPM: time.Second, partVerifier: 2 * time.Second}}
	b := labStart{cpu: map[string]time.Duration{partTPM: 3 * time.Second, partVerifier: 4 * time.Second}}
	if a.total() != 3*time.Second {
		t.Errorf("in all %s", a.total())
	}
	figures := cpuFigures([]labStart{a, b})
	if len(figures) != 2 || !strings.Contains(figures[0].Name, partTPM) || figures[0].Summary.Median != 2 || figures[1].Summary.Median != 3 {
		t.Errorf("got %+v", figures)
	}
}
