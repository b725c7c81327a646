package fleet

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// awaitPoll is how often Await looks.
const awaitPoll = 200 * time.Millisecond

// Await waits until check finds nothing missing any more. What check said last, or its last error, is in the error when ctx ends first. An error
// that [Hopeless] has marked ends the wait at once.
func Await(ctx context.Context, what string, check func(context.Context) (missing string, err error)) error {
	tick := time.NewTicker(awaitPoll)
	defer tick.Stop()
	last := ""
	for {
		missing, err := check(ctx)
		switch {
		case err == nil && missing == "":
			return nil
		case err == nil:
			last = missing
		case errors.As(err, new(*hopelessError)):
			return err
		case ctx.Err() == nil:
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; last: %s", what, context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}

// Hopeless marks an error after which what is awaited will not come.
func Hopeless(err error) error { return &hopelessError{err} }

type hopelessError struct{ error }

func (e *hopelessError) Unwrap() error { return e.error }
