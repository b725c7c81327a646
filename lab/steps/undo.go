package steps

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Undoer undoes what Run did.
type Undoer struct {
	opts   Options
	events *emitter

	mu    sync.Mutex
	steps []Step // in the order in which they were completed
}

// Steps returns the names of the steps that can be undone still, in the order in which they were completed.
func (u *Undoer) Steps() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	names := make([]string, len(u.steps))
	for i, s := range u.steps {
		names[i] = s.Name
	}
	return names
}

// Undo undoes the steps: none before all those that came after it, and the last completed first. It goes on after a
// failure, and returns all *UndoErrors joined. Each Undo has a context of its own, bounded by Options.UndoTimeout and by
// ctx. What has been tried is not tried again: a second call returns nil.
func (u *Undoer) Undo(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	steps := u.steps
	u.steps = nil

	parallel := max(1, u.opts.UndoParallel)
	index := make(map[string]int, len(steps))
	for i, s := range steps {
		index[s.Name] = i
	}
	blockers := make([]int, len(steps)) // how many steps after this one are not undone yet
	for _, s := range steps {
		for _, a := range s.After {
			if i, ok := index[a]; ok {
				blockers[i]++
			}
		}
	}
	type undone struct {
		step int
		err  error
	}
	results := make(chan undone)
	started := make([]bool, len(steps))
	var errs []error
	for running, left := 0, len(steps); left > 0; {
		for i := len(steps) - 1; i >= 0 && running < parallel; i-- {
			if !started[i] && blockers[i] == 0 {
				started[i] = true
				running++
				go func() { results <- undone{i, u.one(ctx, steps[i])} }()
			}
		}
		res := <-results
		running--
		left--
		if res.err != nil {
			errs = append(errs, res.err)
		}
		for _, a := range steps[res.step].After {
			if i, ok := index[a]; ok {
				blockers[i]--
			}
		}
	}
	return errors.Join(errs...)
}

// one undoes one step.
func (u *Undoer) one(parent context.Context, s Step) error {
	if s.Undo == nil {
		return nil
	}
	timeout := u.opts.UndoTimeout
	if timeout <= 0 {
		timeout = DefaultUndoTimeout
	}
	ctx, cancel := context.WithTimeoutCause(parent, timeout, fmt.Errorf("not undone within %s", timeout))
	defer cancel()
	began := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- s.Undo(ctx) }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		// What ends because its context did, ends now: let it tell what it was about.
		grace := time.NewTimer(undoGrace)
		defer grace.Stop()
		select {
		case err = <-ended:
		case <-grace.C:
			err = fmt.Errorf("%w, and it does not end", context.Cause(ctx))
		}
	}
	if err == nil {
		u.events.emit(Event{Step: s.Name, State: Undone, Elapsed: time.Since(began)})
		return nil
	}
	u.events.emit(Event{Step: s.Name, State: UndoFailed, Elapsed: time.Since(began), Err: err})
	return &UndoError{Step: s.Name, Err: err}
}

// undoGrace is how long an Undo may take to notice that its context ended before it is left behind.
const undoGrace = 2 * time.Second
