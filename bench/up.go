package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/spec"
)

// upAim is how much longer `up` should take than the services that it cannot do without.
const upAim = 1.5

// measureUp brings up labs of Options.Nodes nodes, and the services alone, in turn. Each lab is also verified and taken down,
// and the memory of the last one is read.
func (r *runner) measureUp(ctx context.Context, ek spec.EKAlgorithm) (*memory, error) {
	n := r.options.Nodes
	section := Section{Title: fmt.Sprintf("up: %d nodes with %s EKs, beside Keylime's registrar and verifier alone", n, ek)}
	var up, alone, upCPU, aloneCPU, verify, down []float64
	var starts []labStart
	var mem *memory
	for i := range r.options.Repetitions {
		r.progress("up of %d nodes, %s: repetition %d of %d", n, ek, i+1, r.options.Repetitions)
		base, err := r.servicesAlone(ctx, ek)
		if err != nil {
			return nil, err
		}
		one, err := r.wholeLab(ctx, ek)
		if err != nil {
			return nil, err
		}
		alone, aloneCPU = append(alone, seconds(base.wall)), append(aloneCPU, seconds(base.cpu))
		up, upCPU = append(up, seconds(one.up.wall)), append(upCPU, seconds(one.up.total()))
		verify, down = append(verify, seconds(one.verify)), append(down, seconds(one.down))
		starts = append(starts, one.up)
		mem = one.memory
	}
	section.add(
		repeated("up, until all are attested", "s", up),
		repeated("services alone, until both answer", "s", alone),
		repeated("ratio, repetition by repetition", "x", ratios(up, alone)).aim(upAim),
		repeated("up, processor time", "s", upCPU),
	)
	section.add(cpuFigures(starts)...)
	section.add(
		repeated("services alone, processor time", "s", aloneCPU),
		repeated("ratio of processor times", "x", ratios(upCPU, aloneCPU)),
	)
	section.add(phaseFigures(starts)...)
	section.add(repeated("verify", "s", verify), repeated("down", "s", down))
	section.say("Every lab is new: EK CA, TPMs, EKs and certificates are made within the time. Both sides use one installation of Keylime.")
	r.report.Sections = append(r.report.Sections, section)
	return mem, nil
}

// servicesAlone is one start of the services without a lab.
func (r *runner) servicesAlone(ctx context.Context, ek spec.EKAlgorithm) (start, error) {
	p, err := lab.Plan(labSpec(r.options.Nodes, ek, ""))
	if err != nil {
		return start{}, err
	}
	dir, err := os.MkdirTemp(r.dir, "services-")
	if err != nil {
		return start{}, fmt.Errorf("make a folder for the services: %w", err)
	}
	s, err := startServices(ctx, p, r.cache, dir)
	if err != nil {
		return start{}, fmt.Errorf("start Keylime's services alone: %w", err)
	}
	return s, os.RemoveAll(dir)
}

// labRun is one lab's life.
type labRun struct {
	up           labStart
	verify, down time.Duration
	memory       *memory
}

// wholeLab brings a lab up, verifies it, reads its memory, and takes it down.
func (r *runner) wholeLab(ctx context.Context, ek spec.EKAlgorithm) (run labRun, err error) {
	l, up, err := upLab(ctx, labSpec(r.options.Nodes, ek, ""))
	if err != nil {
		return labRun{}, err
	}
	defer func() { err = errors.Join(err, wipe(ctx, l)) }()
	run = labRun{up: up}

	began := time.Now()
	result, err := l.Verify(ctx)
	if err != nil {
		return labRun{}, fmt.Errorf("verify the lab: %w", err)
	}
	run.verify = time.Since(began)
	for _, c := range result.Checks {
		if !c.Passed() {
			return labRun{}, fmt.Errorf("the lab is not what it claims to be, so its figures mean nothing: %s: %s", c.Name(), c.Error)
		}
	}
	if run.memory, err = readMemory(ctx, l); err != nil {
		return labRun{}, err
	}
	began = time.Now()
	if _, err := l.Down(ctx); err != nil {
		return labRun{}, fmt.Errorf("take the lab down: %w", err)
	}
	run.down = time.Since(began)
	return run, nil
}

// stateDir makes the folder in which labs are, and points keylab there.
func (r *runner) stateDir() error {
	dir := filepath.Join(r.dir, "state")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make a folder for the labs: %w", err)
	}
	return os.Setenv(envState, dir)
}
