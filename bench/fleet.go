package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/spec"
)

// Figures of one program that is the agent of many nodes, and of one verifier.
const (
	// agentAim is the memory of one Go agent among many in one process, in MiB.
	agentAim = 1
	// attestTime is how long attestations are counted.
	attestTime = 20 * time.Second
)

// fleetSizes are the numbers of agents in one process.
var fleetSizes = []int{1, 10, 100}

// measureFleet brings up labs of 1, 10 and 100 nodes, whose agents are all in the supervisor's process, and counts what a verifier gets done in the pull and
// in the push model.
func (r *runner) measureFleet(ctx context.Context) error {
	section := Section{Title: "fleet: many Go agents in one process, and what one verifier attests"}
	defer func() { r.report.Sections = append(r.report.Sections, section) }()
	var first *memory
	for _, n := range fleetSizes {
		r.progress("agents in one process: %d", n)
		s := labSpec(n, spec.EKRSA2048, "")
		s.Keylime.QuoteInterval = spec.Duration(max(2*time.Second, time.Duration(n)*100*time.Millisecond)) // what the verifier can do
		mem, rate, err := r.steadyLab(ctx, s)
		if err != nil {
			return err
		}
		section.add(repeated(fmt.Sprintf("supervisor with %d agents", n), "MiB", []float64{mem.sum(partSupervisor)}))
		if first == nil {
			first = mem
		} else {
			section.add(repeated(fmt.Sprintf("of that, each agent more (%d agents)", n), "MiB", []float64{perNode(first, mem)}).aim(agentAim))
		}
		section.add(repeated(fmt.Sprintf("supervisor's processor time for one attestation (%d agents)", n), "ms", []float64{1000 * rate.supervisor / rate.attestations}))
	}
	for _, mode := range []spec.Mode{spec.ModePull, spec.ModePush} {
		r.progress("attestations of one verifier, %s", mode)
		s := labSpec(8, spec.EKRSA2048, "")
		s.Keylime.Mode = mode
		s.Keylime.QuoteInterval = spec.Duration(100 * time.Millisecond)
		if mode == spec.ModePush {
			s.Keylime.QuoteInterval = spec.Duration(time.Second) // it knows whole seconds only
		}
		_, rate, err := r.steadyLab(ctx, s)
		if err != nil {
			return err
		}
		section.add(
			repeated(fmt.Sprintf("attestations, 8 nodes, %s, every %s", mode, time.Duration(s.Keylime.QuoteInterval)), "/s", []float64{rate.attestations / rate.wall}),
			repeated(fmt.Sprintf("  keylab's share of the processor time, %s", mode), "%", []float64{100 * rate.supervisor / rate.total}).note("agents, network, ingress; TPMs %.0f %%", 100*rate.tpm/rate.total),
		)
	}
	section.say("The growth of the supervisor for each node holds its agent, its TPM's resource manager, and its part of network and ingress.")
	return nil
}

// throughput is what a lab did in a while, times in seconds.
type throughput struct {
	attestations, wall, supervisor, tpm, total float64
}

// steadyLab brings a lab up, lets it run, and takes it away.
func (r *runner) steadyLab(ctx context.Context, s spec.Spec) (mem *memory, t throughput, err error) {
	l, _, err := upLab(ctx, s)
	if err != nil {
		return nil, t, err
	}
	defer func() { err = errors.Join(err, wipe(ctx, l)) }()
	before, cpuBefore, err := counts(ctx, l)
	if err != nil {
		return nil, t, err
	}
	began := time.Now()
	select {
	case <-time.After(attestTime):
	case <-ctx.Done():
		return nil, t, context.Cause(ctx)
	}
	after, cpuAfter, err := counts(ctx, l)
	if err != nil {
		return nil, t, err
	}
	t.wall, t.attestations = time.Since(began).Seconds(), float64(after-before)
	for part, cpu := range cpuAfter {
		spent := seconds(cpu - cpuBefore[part])
		t.total += spent
		switch part {
		case partSupervisor:
			t.supervisor = spent
		case partTPM:
			t.tpm = spent
		}
	}
	if t.attestations == 0 {
		return nil, t, fmt.Errorf("the verifier attested nobody in %s", attestTime)
	}
	mem, err = readMemory(ctx, l)
	return mem, t, err
}

// counts are all attestations of a lab so far, and the processor time of its parts.
func counts(ctx context.Context, l *lab.Lab) (int, map[string]time.Duration, error) {
	status, err := l.Status(ctx)
	if err != nil {
		return 0, nil, err
	}
	sum := 0
	for _, n := range status.Nodes {
		sum += n.AttestationCount
	}
	cpu, err := cpuByPart(status.PID)
	return sum, cpu, err
}
