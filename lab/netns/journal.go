package netns

import (
	"context"
	"sync"
	"time"

	"keylab.dev/keylab/lab/control"
)

// journal keeps the events of a lab's start, so that who asks late sees them all.
type journal struct {
	mu     sync.Mutex
	events []control.Event
	grown  chan struct{} // closed and replaced with every event
}

func newJournal() *journal { return &journal{grown: make(chan struct{})} }

func (j *journal) add(e control.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	j.events = append(j.events, e)
	close(j.grown)
	j.grown = make(chan struct{})
}

// note adds a line that belongs to no step's start or end.
func (j *journal) note(step, text string) {
	j.add(control.Event{Step: step, State: control.EventNote, Text: text})
}

// follow hands every event to emit, from the first, until one that ends the progress.
func (j *journal) follow(ctx context.Context, emit func(control.Event) error) error {
	for next := 0; ; {
		j.mu.Lock()
		events, grown := j.events[next:], j.grown
		j.mu.Unlock()
		for _, e := range events {
			if err := emit(e); err != nil {
				return err
			}
			if e.State == control.EventReady || e.State == control.EventEnded {
				return nil
			}
		}
		next += len(events)
		if len(events) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-grown:
		}
	}
}
