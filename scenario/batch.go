package scenario

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"keylab.dev/keylab/internal/machine"
	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/report"
)

// Job is one run of many.
type Job struct {
	Scenario Scenario
	Options  Options
	Attempt  int // from 1, of those of the same scenario, mode and substrate
}

// Name tells a job from the others of its batch, as a file name can.
func (j Job) Name() string {
	name := fmt.Sprintf("%s-%s", j.Scenario.Name, j.Options.Mode)
	if j.Options.Substrate == spec.SubstrateKind {
		name += "-kind"
	}
	if j.Attempt > 1 {
		name += fmt.Sprintf("-%d", j.Attempt)
	}
	return name
}

// Budget is what may be in use at once.
type Budget struct {
	Labs   int // at least 1
	Memory int // MiB; a single lab may take more
}

// DefaultBudget is one lab for each processor, and half of the memory that is free. A lab spends most of its time waiting.
func DefaultBudget() Budget {
	return Budget{Labs: runtime.NumCPU(), Memory: machine.AvailableMemory() / 2}
}

// memory is what a job's lab takes, MiB.
func (j Job) memory() int { return lab.Memory(j.Options.Substrate, len(j.Scenario.Nodes())) }

// patience is how long a job's scenario is prepared to wait, by what its steps say of it.
func (j Job) patience() (all time.Duration) {
	for _, s := range j.Scenario.Steps {
		all += s.Within.Std() + s.Hold.Std()
	}
	return all
}

// order is in which order jobs begin, as their places: those that may take long first where several go side by side, or the last of them would be waited for alone.
func order(jobs []Job, labs int) []int {
	places := make([]int, len(jobs))
	for i := range places {
		places[i] = i
	}
	if labs > 1 {
		slices.SortStableFunc(places, func(a, b int) int { return cmp.Compare(jobs[b].patience(), jobs[a].patience()) })
	}
	return places
}

// RunAll carries out all jobs, as many side by side as the budget allows, and returns their runs in the order of the jobs. start and ended are called
// for each, one at a time. Those that had not begun when ctx ended have the verdict Interrupted.
func RunAll(ctx context.Context, jobs []Job, b Budget, start func(Job), ended func(Job, report.Run)) []report.Run {
	runs := make([]report.Run, len(jobs))
	b.Labs, b.Memory = max(1, b.Labs), max(1, b.Memory)
	labs, memory := semaphore.NewWeighted(int64(b.Labs)), semaphore.NewWeighted(int64(b.Memory))
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, i := range order(jobs, b.Labs) {
		j := jobs[i]
		need := int64(min(j.memory(), b.Memory))
		// One after the other: a large one is not passed by for ever.
		if labs.Acquire(ctx, 1) != nil || memory.Acquire(ctx, need) != nil {
			runs[i] = report.Run{Schema: report.RunSchema, Scenario: j.Scenario.Name, Title: j.Scenario.Title, Mode: string(j.Options.Mode), Verdict: report.Interrupted, Error: "interrupted before it began"}
			continue
		}
		all.Go(func() {
			defer labs.Release(1)
			defer memory.Release(need)
			mu.Lock()
			start(j)
			mu.Unlock()
			runs[i] = Run(ctx, j.Scenario, j.Options)
			mu.Lock()
			defer mu.Unlock()
			ended(j, runs[i])
		})
	}
	all.Wait()
	return runs
}
