package steps

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Run does all steps. When it returns nil, the Undoer undoes them all at a later time, as `down` does.
//
// When a step fails, everything is undone before Run returns, unless Options.Retain is set, and the error holds the
// *StepError of the step that failed first. When ctx ends first, it holds an *InterruptedError in its place. Errors of
// the undoing (*UndoError) are joined after that. The Undoer is never nil, unless the list of steps itself is wrong (see
// Check), when nothing has been started; after a rollback it has nothing left to do.
func Run(ctx context.Context, steps []Step, opts Options) (*Undoer, error) {
	if err := Check(steps); err != nil {
		return nil, err
	}
	r := &run{steps: steps, events: &emitter{on: opts.OnEvent}, index: map[string]int{}, waitsFor: make([]int, len(steps)), results: make(chan result)}
	for i, s := range steps {
		r.index[s.Name] = i
		after := slices.Compact(slices.Sorted(slices.Values(s.After)))
		r.waitsFor[i] = len(after)
	}
	first := r.do(ctx)
	u := &Undoer{opts: opts, events: r.events, steps: r.completed}
	if first == nil || opts.Retain {
		return u, first
	}
	if err := u.Undo(context.WithoutCancel(ctx)); err != nil {
		first = errors.Join(first, err)
	}
	return u, first
}

// emitter hands on events, one at a time.
type emitter struct {
	mu sync.Mutex
	on func(Event)
}

func (e *emitter) emit(ev Event) {
	if e.on == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	ev.Time = time.Now()
	e.on(ev)
}

type result struct {
	step int
	err  error
}

// run is the state of one Run. Only the goroutine of do touches it.
type run struct {
	steps     []Step
	events    *emitter
	index     map[string]int
	waitsFor  []int // per step, how many steps it still waits for
	results   chan result
	running   int
	completed []Step // those to undo, in the order in which they ended
}

// do runs the steps and returns the first error.
func (r *run) do(parent context.Context) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)

	dependents := make([][]int, len(r.steps))
	begun := 0
	for i, s := range r.steps {
		for _, a := range slices.Compact(slices.Sorted(slices.Values(s.After))) {
			dependents[r.index[a]] = append(dependents[r.index[a]], i)
		}
	}
	start := func(i int) {
		begun++
		r.running++
		go func() { r.results <- result{i, r.one(ctx, r.steps[i])} }()
	}
	var first *StepError        // the failure that stopped the rest
	var interrupted bool        // the parent ended before any step failed
	var unfinished []*StepError // what failed after that
	stopped := func() bool {
		if first == nil && !interrupted && parent.Err() != nil {
			interrupted = true
		}
		return first != nil || interrupted
	}
	if !stopped() {
		for i := range r.steps {
			if r.waitsFor[i] == 0 {
				start(i)
			}
		}
	}
	for r.running > 0 {
		res := <-r.results
		r.running--
		step := r.steps[res.step]
		if res.err == nil || step.UndoFailed {
			r.completed = append(r.completed, step)
		}
		if res.err != nil {
			failure := &StepError{Step: step.Name, Err: res.err}
			if !stopped() {
				first = failure
				cancel(failure)
			} else if interrupted {
				unfinished = append(unfinished, failure)
			}
			continue
		}
		for _, d := range dependents[res.step] {
			if r.waitsFor[d]--; r.waitsFor[d] == 0 && !stopped() {
				start(d)
			}
		}
	}
	switch {
	case first != nil:
		return first
	case interrupted:
		slices.SortFunc(unfinished, func(a, b *StepError) int { return cmp.Compare(a.Step, b.Step) })
		return &InterruptedError{Cause: context.Cause(parent), Unfinished: unfinished, Waiting: len(r.steps) - begun}
	}
	return nil
}

// one does one step.
func (r *run) one(ctx context.Context, s Step) error {
	r.events.emit(Event{Step: s.Name, State: Start})
	began := time.Now()
	err := s.Do(ctx)
	e := Event{Step: s.Name, State: Done, Elapsed: time.Since(began), Err: err}
	switch {
	case err != nil && errors.Is(ctx.Err(), context.Canceled):
		e.State = Stopped
	case err != nil:
		e.State = Failed
	}
	r.events.emit(e)
	return err
}
