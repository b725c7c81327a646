package steps

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Step is one thing to do.
type Step struct {
	Name  string                      // unique in the list
	After []string                    // the names of the steps that must be done before
	Do    func(context.Context) error // must end soon after its context does: Run waits for it
	Undo  func(context.Context) error // takes back what Do did; nil when there is nothing to take back

	// UndoFailed says that Undo also takes back what a failing Do left behind half done. Otherwise Do cleans up after itself
	// before it returns an error, and Undo is called only after a Do that succeeded.
	UndoFailed bool
}

// Options say how steps are run.
type Options struct {
	// Retain leaves everything as it is after a failure, to be looked at; the Undoer can undo it later.
	Retain bool
	// OnEvent is told of every step's progress, one event at a time. It should return soon.
	OnEvent func(Event)
	// UndoTimeout bounds each step's Undo, in a context that outlives the one given to Run; 0 is DefaultUndoTimeout. An Undo
	// that does not end even then is reported and left behind.
	UndoTimeout time.Duration
	// UndoParallel is how many steps may be undone at once, of those that do not build on one another. 0 is 1: strictly in
	// the reverse order of completion.
	UndoParallel int
}

// DefaultUndoTimeout bounds an Undo for which Options sets nothing.
const DefaultUndoTimeout = 30 * time.Second

// State is what has become of a step.
type State string

// The states.
const (
	Start      State = "start"
	Done       State = "done"
	Failed     State = "failed"
	Stopped    State = "stopped" // failed after the user, or another step's failure, had ended its context
	Undone     State = "undone"
	UndoFailed State = "undo-failed"
)

// Event tells of one step's progress.
type Event struct {
	Step    string
	State   State
	Elapsed time.Duration // how long Do, or Undo, took; 0 at the start
	Err     error         // with Failed, Stopped and UndoFailed
	Time    time.Time
}

// StepError is the failure of one step's Do.
type StepError struct {
	Step string
	Err  error
}

// Error names the step and its error.
func (e *StepError) Error() string { return fmt.Sprintf("step %q: %v", e.Step, e.Err) }

// Unwrap returns the step's error.
func (e *StepError) Unwrap() error { return e.Err }

// UndoError is the failure of one step's Undo: something is left behind.
type UndoError struct {
	Step string
	Err  error
}

// Error names the step and its error.
func (e *UndoError) Error() string { return fmt.Sprintf("undo step %q: %v", e.Step, e.Err) }

// Unwrap returns the step's error.
func (e *UndoError) Unwrap() error { return e.Err }

// InterruptedError says that the context given to Run ended before the steps did.
type InterruptedError struct {
	Cause      error        // of the context's end
	Unfinished []*StepError // the steps that were under way, with what they say of it; by name
	Waiting    int          // how many steps had not begun
}

// Error gives the cause, and what was under way.
func (e *InterruptedError) Error() string {
	var b strings.Builder
	b.WriteString(e.Cause.Error())
	for _, s := range e.Unfinished {
		b.WriteString("\n" + s.Error())
	}
	switch {
	case e.Waiting == 1:
		b.WriteString("\n1 step had not begun")
	case e.Waiting > 1:
		fmt.Fprintf(&b, "\n%d steps had not begun", e.Waiting)
	}
	return b.String()
}

// Unwrap returns the cause and the steps' errors.
func (e *InterruptedError) Unwrap() []error {
	errs := []error{e.Cause}
	for _, s := range e.Unfinished {
		errs = append(errs, s)
	}
	return errs
}

// Check returns what is wrong with the list itself: a step without a name or a Do, two of the same name, an unknown name
// in After, or steps that wait for one another in a circle.
func Check(steps []Step) error {
	index := make(map[string]int, len(steps))
	for i, s := range steps {
		if s.Name == "" {
			return fmt.Errorf("steps: number %d has no name", i+1)
		}
		if s.Do == nil {
			return fmt.Errorf("steps: %q does nothing: it has no Do", s.Name)
		}
		if _, ok := index[s.Name]; ok {
			return fmt.Errorf("steps: two steps have the name %q", s.Name)
		}
		index[s.Name] = i
	}
	for _, s := range steps {
		for _, a := range s.After {
			if _, ok := index[a]; !ok {
				return fmt.Errorf("steps: %q comes after %q, and there is no such step", s.Name, a)
			}
		}
	}
	const onPath, finished = 1, 2
	mark := make([]int, len(steps))
	var path []string
	var visit func(i int) error
	visit = func(i int) error {
		switch mark[i] {
		case finished:
			return nil
		case onPath:
			circle := append(path[slices.Index(path, steps[i].Name):], steps[i].Name)
			return fmt.Errorf("steps: these wait for one another in a circle: %s", strings.Join(circle, " after "))
		}
		mark[i] = onPath
		path = append(path, steps[i].Name)
		for _, a := range steps[i].After {
			if err := visit(index[a]); err != nil {
				return err
			}
		}
		path = path[:len(path)-1]
		mark[i] = finished
		return nil
	}
	for i := range steps {
		if err := visit(i); err != nil {
			return err
		}
	}
	return nil
}
