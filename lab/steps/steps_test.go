package steps_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keylab.dev/keylab/lab/steps"
)

// diary writes down what happens, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) write(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

func (d *diary) event(e steps.Event) { d.write(fmt.Sprintf("%s %s", e.State, e.Step)) }

// position returns where the line is in the diary, or -1.
func (d *diary) position(line string) int { return slices.Index(d.lines, line) }

func (d *diary) before(t *testing.T, first, second string) {
	t.Helper()
	if a, b := d.position(first), d.position(second); a < 0 || b < 0 || a > b {
		t.Errorf("%q is at %d, %q at %d, in %q", first, a, second, b, d.lines)
	}
}

func nothing(context.Context) error { return nil }

// step does and undoes nothing.
func step(name string, after ...string) steps.Step {
	return steps.Step{Name: name, After: after, Do: nothing, Undo: nothing}
}

func failing(err error) func(context.Context) error {
	return func(context.Context) error { return err }
}

// untilCancelled waits for the end of its context, as a step under way does.
func untilCancelled(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func TestStepsRunInOrderAndAreUndoneTheLastFirst(t *testing.T) {
	var d diary
	undo, err := steps.Run(t.Context(), []steps.Step{
		step("agent", "tpm", "registrar"), step("registrar", "network"), step("tpm", "ca"), step("ca"), step("network"),
	}, steps.Options{OnEvent: d.event})
	if err != nil {
		t.Fatal(err)
	}
	d.before(t, "done network", "start registrar")
	d.before(t, "done ca", "start tpm")
	d.before(t, "done tpm", "start agent")
	d.before(t, "done registrar", "start agent")

	completed := undo.Steps()
	d.lines = nil
	if err := undo.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	slices.Reverse(completed)
	var want []string
	for _, name := range completed {
		want = append(want, "undone "+name)
	}
	if !slices.Equal(d.lines, want) {
		t.Errorf("undone as %q, want %q", d.lines, want)
	}
	if len(want) != 5 || len(undo.Steps()) != 0 {
		t.Errorf("completed %q; left over %q", want, undo.Steps())
	}
	if err := undo.Undo(t.Context()); err != nil || len(d.lines) != 5 {
		t.Errorf("a second Undo does something again: %v, %q", err, d.lines)
	}
}

// Two steps that wait for each other can only end when they run at the same time.
func TestStepsRunInParallel(t *testing.T) {
	a, b := make(chan struct{}), make(chan struct{})
	meet := func(mine, other chan struct{}) func(context.Context) error {
		return func(ctx context.Context) error {
			close(mine)
			select {
			case <-other:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := steps.Run(ctx, []steps.Step{{Name: "a", Do: meet(a, b)}, {Name: "b", Do: meet(b, a)}}, steps.Options{}); err != nil {
		t.Fatal(err)
	}
}

func TestFailureRollsBack(t *testing.T) {
	cause := errors.New("no TPM")
	var d diary
	slow := step("slow", "network")
	slow.Do = untilCancelled
	slow.Undo = func(context.Context) error { d.write("called slow's undo"); return nil }
	half := step("half", "network")
	half.Do, half.UndoFailed = untilCancelled, true
	failed := step("tpm", "ca")
	failed.Do = failing(cause)
	failed.Undo = slow.Undo
	undo, err := steps.Run(t.Context(), []steps.Step{step("network"), step("ca", "network"), slow, half, failed, step("agent", "tpm")}, steps.Options{OnEvent: d.event})

	var stepErr *steps.StepError
	if !errors.As(err, &stepErr) || stepErr.Step != "tpm" || !errors.Is(err, cause) || err.Error() != `step "tpm": no TPM` {
		t.Errorf("error: %v", err)
	}
	if d.position("start agent") >= 0 {
		t.Error("a step began after the failure of the one that it comes after")
	}
	if d.position("called slow's undo") >= 0 {
		t.Error("a step was undone that had not been done")
	}
	d.before(t, "failed tpm", "stopped slow") // cancelled by the failure, and waited for
	d.before(t, "stopped slow", "undone ca")
	d.before(t, "undone half", "undone ca") // half done, and so the last to end
	d.before(t, "undone ca", "undone network")
	if left := undo.Steps(); len(left) != 0 {
		t.Errorf("left over after the rollback: %q", left)
	}
}

// A step that is under way when another fails learns why it is cancelled; its own error does not stand in the first one's place.
func TestCancelledStepsLearnTheCause(t *testing.T) {
	cause := errors.New("no TPM")
	var learned error
	waiting := step("waiting")
	waiting.Do = func(ctx context.Context) error {
		learned = untilCancelled(ctx)
		return errors.New("a later error")
	}
	_, err := steps.Run(t.Context(), []steps.Step{waiting, {Name: "tpm", Do: failing(cause)}}, steps.Options{})
	if !errors.Is(learned, cause) {
		t.Errorf("the cancelled step learned %v", learned)
	}
	if !errors.Is(err, cause) || strings.Contains(err.Error(), "later") {
		t.Errorf("error: %v", err)
	}
}

func TestRetainLeavesEverythingForLater(t *testing.T) {
	var d diary
	half := steps.Step{Name: "half", After: []string{"network"}, Do: failing(errors.New("no")), UndoFailed: true, Undo: nothing}
	undo, err := steps.Run(t.Context(), []steps.Step{step("network"), half}, steps.Options{Retain: true, OnEvent: d.event})
	if err == nil || slices.ContainsFunc(d.lines, func(l string) bool { return strings.HasPrefix(l, "undone") }) {
		t.Errorf("error %v, events %q", err, d.lines)
	}
	if got := undo.Steps(); !slices.Equal(got, []string{"network", "half"}) {
		t.Errorf("to be undone later: %q", got)
	}
	if err := undo.Undo(t.Context()); err != nil {
		t.Error(err)
	}
	d.before(t, "undone half", "undone network")
}

func TestUndoErrorsDoNotHideTheFirst(t *testing.T) {
	first, second, third := errors.New("first"), errors.New("second"), errors.New("third")
	a, b := step("a"), step("b", "a")
	a.Undo, b.Undo = failing(second), failing(third)
	var d diary
	_, err := steps.Run(t.Context(), []steps.Step{a, b, {Name: "c", After: []string{"b"}, Do: failing(first)}}, steps.Options{OnEvent: d.event})
	want := "step \"c\": first\nundo step \"b\": third\nundo step \"a\": second"
	if err == nil || err.Error() != want {
		t.Errorf("error:\n%v\nwant:\n%s", err, want)
	}
	for _, e := range []error{first, second, third} {
		if !errors.Is(err, e) {
			t.Errorf("%v is not in the error", e)
		}
	}
	d.before(t, "undo-failed b", "undo-failed a")
	var undoErr *steps.UndoError
	if !errors.As(err, &undoErr) || undoErr.Step != "b" {
		t.Errorf("UndoError: %v", undoErr)
	}
}

func TestCancellationRollsBackInAContextOfItsOwn(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupt := errors.New("interrupted by the user")
	var atUndo error
	var deadline bool
	network := step("network")
	network.Undo = func(ctx context.Context) error {
		atUndo = ctx.Err()
		_, deadline = ctx.Deadline()
		return nil
	}
	agent := func(name string) steps.Step {
		return steps.Step{Name: name, After: []string{"network"}, Do: func(ctx context.Context) error {
			cancel(interrupt)
			<-ctx.Done()
			return errors.New("the registrar was not there yet")
		}}
	}
	_, err := steps.Run(ctx, []steps.Step{network, agent("agent-2"), agent("agent-1"), step("enrol", "agent-1")}, steps.Options{})
	var interrupted *steps.InterruptedError
	if !errors.As(err, &interrupted) || !errors.Is(err, interrupt) || interrupted.Waiting < 1 {
		t.Fatalf("error: %v", err)
	}
	if !strings.HasPrefix(err.Error(), "interrupted by the user\nstep \"agent-") || !strings.Contains(err.Error(), "the registrar was not there yet") {
		t.Errorf("error: %v", err)
	}
	if atUndo != nil || !deadline {
		t.Errorf("Undo's context: %v, with a deadline: %v", atUndo, deadline)
	}
}

func TestNothingBeginsInAContextThatHasEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var d diary
	_, err := steps.Run(ctx, []steps.Step{step("a"), step("b", "a")}, steps.Options{OnEvent: d.event})
	if !errors.Is(err, context.Canceled) || len(d.lines) != 0 || !strings.Contains(err.Error(), "2 steps had not begun") {
		t.Errorf("error %v, events %q", err, d.lines)
	}
}

// A step that succeeds although it was cancelled is undone, and what comes after it does not begin.
func TestNothingBeginsAfterAFailure(t *testing.T) {
	var d diary
	stubborn := step("stubborn")
	stubborn.Do = func(ctx context.Context) error { <-ctx.Done(); return nil }
	_, err := steps.Run(t.Context(), []steps.Step{stubborn, step("next", "stubborn"), {Name: "tpm", Do: failing(errors.New("no"))}}, steps.Options{OnEvent: d.event})
	if err == nil || d.position("start next") >= 0 {
		t.Errorf("error %v, events %q", err, d.lines)
	}
	d.before(t, "done stubborn", "undone stubborn")
}

// When everything was done before anybody noticed the end of the context, everything is done.
func TestLateCancellationIsNoFailure(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	last := step("last")
	last.Do = func(context.Context) error { cancel(); return nil }
	if undo, err := steps.Run(ctx, []steps.Step{last}, steps.Options{}); err != nil || len(undo.Steps()) != 1 {
		t.Errorf("error %v", err)
	}
}

func TestAnUndoThatHangsIsLeftBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var d diary
		hanging := step("hanging", "network")
		hanging.Undo = func(context.Context) error { <-release; return nil }
		slow := step("slow", "network")
		slow.Undo = untilCancelled
		undo, err := steps.Run(t.Context(), []steps.Step{step("network"), hanging, slow}, steps.Options{UndoTimeout: 5 * time.Second, OnEvent: d.event})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err = undo.Undo(t.Context())
		for _, want := range []string{`undo step "hanging": not undone within 5s, and it does not end`, `undo step "slow": not undone within 5s`} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q is not in the error: %v", want, err)
			}
		}
		if d.position("undone network") < 0 {
			t.Error("the hanging step kept another from being undone")
		}
		if took := time.Since(began); took > 13*time.Second {
			t.Errorf("took %v", took)
		}
		close(release)
	})
}

func TestUndoInParallelKeepsTheOrderOfWhatBuildsOnOneAnother(t *testing.T) {
	var all []steps.Step
	var d diary
	all = append(all, step("network"))
	meet := make(chan struct{})
	for i := range 20 {
		tpm, agent := fmt.Sprintf("tpm-%d", i), fmt.Sprintf("agent-%d", i)
		a := step(agent, tpm, "network")
		if i < 2 { // the undoing of these two needs each other
			a.Undo = func(ctx context.Context) error {
				select {
				case meet <- struct{}{}:
				case <-meet:
				case <-ctx.Done():
					return ctx.Err()
				}
				return nil
			}
		}
		all = append(all, step(tpm), a)
	}
	undo, err := steps.Run(t.Context(), all, steps.Options{UndoParallel: 8, OnEvent: d.event})
	if err != nil {
		t.Fatal(err)
	}
	d.lines = nil
	if err := undo.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		d.before(t, fmt.Sprintf("undone agent-%d", i), fmt.Sprintf("undone tpm-%d", i))
		d.before(t, fmt.Sprintf("undone agent-%d", i), "undone network")
	}
}

func TestEventsTellTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := step("a")
		s.Do = func(ctx context.Context) error {
			timer := time.NewTimer(3 * time.Second)
			<-timer.C
			return nil
		}
		var events []steps.Event
		if _, err := steps.Run(t.Context(), []steps.Step{s}, steps.Options{OnEvent: func(e steps.Event) { events = append(events, e) }}); err != nil {
			t.Fatal(err)
		}
		if len(events) != 2 || events[1].Elapsed != 3*time.Second || events[1].Time.Sub(events[0].Time) != 3*time.Second || events[0].Elapsed != 0 {
			t.Errorf("events: %+v", events)
		}
	})
}

func TestAWrongListStartsNothing(t *testing.T) {
	ran := false
	good := steps.Step{Name: "good", Do: func(context.Context) error { ran = true; return nil }}
	for _, c := range []struct {
		want string
		list []steps.Step
	}{
		{`two steps have the name "good"`, []steps.Step{good, good}},
		{`number 2 has no name`, []steps.Step{good, {Do: nothing}}},
		{`"idle" does nothing`, []steps.Step{good, {Name: "idle"}}},
		{`"a" comes after "b", and there is no such step`, []steps.Step{good, step("a", "b")}},
		{`circle: a after a`, []steps.Step{good, step("a", "a")}},
		{`circle: b after c after b`, []steps.Step{good, step("a", "b"), step("b", "c"), step("c", "good", "b")}},
	} {
		_, err := steps.Run(t.Context(), c.list, steps.Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
	if ran {
		t.Error("a step was started")
	}
	if _, err := steps.Run(t.Context(), nil, steps.Options{}); err != nil {
		t.Errorf("no steps at all: %v", err)
	}
	if _, err := steps.Run(t.Context(), []steps.Step{step("a"), step("b", "a", "a")}, steps.Options{}); err != nil {
		t.Errorf("a name given twice in After: %v", err)
	}
}

func TestManySteps(t *testing.T) {
	all := []steps.Step{step("network")}
	for i := range 2000 {
		all = append(all, step(fmt.Sprintf("tpm-%d", i), "network"), step(fmt.Sprintf("agent-%d", i), fmt.Sprintf("tpm-%d", i)))
	}
	undo, err := steps.Run(t.Context(), all, steps.Options{})
	if err != nil || len(undo.Steps()) != len(all) {
		t.Fatalf("%d steps, error %v", len(undo.Steps()), err)
	}
	if err := undo.Undo(t.Context()); err != nil {
		t.Fatal(err)
	}
}
