package kind

import (
	"context"
	"fmt"

	"keylab.dev/keylab/internal/machine"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// Preflight refuses, before anything is touched, a lab that could not come up here: no Docker, a name or a range that is taken, too little
// memory (unless it is forced).
func Preflight(ctx context.Context, dir state.Dir, p plan.Plan, force bool) error {
	l, err := newLab(dir, p)
	if err != nil {
		return err
	}
	defer l.Close()
	if _, err := CheckDocker(ctx, l.docker); err != nil {
		return err
	}
	if err := l.checkVacant(ctx); err != nil {
		return err
	}
	if err := l.checkRanges(ctx); err != nil {
		return err
	}
	if force {
		return nil
	}
	return checkMemory(len(p.Nodes), machine.AvailableMemory())
}

// checkVacant refuses a name under which Docker has something already.
func (l *Lab) checkVacant(ctx context.Context) error {
	found, err := find(ctx, l.docker, l.planned.Lab)
	if err != nil {
		return err
	}
	if err := found.checkOwner(l.planned.Lab, l.dir.Path); err != nil {
		return err
	}
	if found.running() {
		return fmt.Errorf("lab %q: %w: `keylab status %s` shows it, `keylab down %s` ends it", l.planned.Lab, control.ErrRunning, l.planned.Lab, l.planned.Lab)
	}
	return nil
}

// What a lab was measured to need, in MiB: control plane and services, and each worker with its agent and TPM.
const (
	memoryBase   = 1200
	memoryWorker = 230
)

// Memory is about what a lab of so many nodes takes, in MiB.
func Memory(nodes int) int { return memoryBase + nodes*memoryWorker }

// checkMemory refuses more nodes than there is memory for; available is in MiB, 0 when it is unknown.
func checkMemory(nodes, available int) error {
	need := Memory(nodes)
	if available == 0 || need <= available {
		return nil
	}
	fits := max(0, (available-memoryBase)/memoryWorker)
	return fmt.Errorf("%d nodes need about %d MiB of memory, and %d MiB are available, enough for %d: take fewer, or try it all the same with --force", nodes, need, available, fits)
}
