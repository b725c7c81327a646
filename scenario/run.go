package scenario

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/report"
)

// defaultWithin is how long an expectation has when it does not say.
func defaultWithin(s spec.Substrate) time.Duration {
	if s == spec.SubstrateKind {
		return 3 * time.Minute
	}
	return time.Minute
}

// runner carries out the steps of one run on a lab.
type runner struct {
	scenario Scenario // as it runs: in one mode, on one substrate
	lab      Lab
	cast     *cast
	history  *history
	disarmed bool
	omitted  bool            // something was left out, because the run is disarmed
	leftOut  []control.Fault // of what was, the faults
	showed   string          // what the disarmed run came to
	onStep   func(report.Step)

	polls   atomic.Int64
	polling atomic.Int64 // ns that they took in all

	acted    span            // the last thing that was done
	begun    map[string]span // steps by id
	finished []report.Step
	runbook  []string
}

// span is when a step began and ended.
type span struct{ from, to time.Duration }

// steps carries out all of them, the rest of which is skipped when one fails, and returns how the run ended.
func (r *runner) steps(ctx context.Context) (report.Verdict, string) {
	observing, stop := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { r.observe(observing) })
	defer done.Wait()
	defer stop()

	verdict, why := report.Passed, ""
	r.begun = map[string]span{"start": {}}
	if r.disarmed && !r.scenario.acts() {
		r.showed = nothingLeftOut
	}
	for i, s := range r.scenario.Steps {
		step := report.Step{Number: i + 1, Kind: s.kind(), Name: s.Sentence(), Nodes: s.about(), At: r.history.now(), Status: report.StepSkipped}
		if verdict == report.Passed && (r.showed == "" || r.showed == nothingLeftOut) {
			verdict, why = r.step(ctx, s, &step)
			if r.disarmed && verdict == report.Failed && r.showed == "" {
				verdict, why = r.missed(s, &step, why)
			}
		}
		r.finished = append(r.finished, step)
		r.tell(step)
	}
	if verdict == report.Passed && r.disarmed && r.showed == "" {
		return r.tellApart(ctx)
	}
	return verdict, why
}

func (r *runner) tell(s report.Step) {
	if r.onStep != nil {
		r.onStep(s)
	}
}

// step carries out one of them.
func (r *runner) step(ctx context.Context, s Step, step *report.Step) (report.Verdict, string) {
	s = r.cast.step(s)
	step.Nodes = s.about()
	if step.Kind == report.StepNever || step.Kind == report.StepExpect {
		step.Name = s.Sentence()
	}
	r.tell(report.Step{Number: step.Number, Kind: step.Kind, Name: step.Name, Nodes: step.Nodes, At: step.At})
	r.history.add(report.Entry{Kind: report.EntryAction, Step: step.Number, State: "begin", Detail: step.Name})
	at := span{from: step.At}
	var err error
	verdict := report.Broken
	switch step.Kind {
	case report.StepExpect, report.StepNever:
		verdict = report.Failed
		err = r.look(ctx, s, step)
	default:
		if step.Name != "" && s.Hold == 0 {
			r.cast.name(s.Nodes)
		}
		verdict, err = r.act(ctx, s, step)
		at.to = r.history.now()
		if s.Hold == 0 {
			r.acted = at
		}
	}
	at.to = r.history.now()
	if s.ID != "" {
		r.begun[s.ID] = at
	}
	step.Duration = at.to - at.from
	step.Status = report.StepPassed
	if err != nil {
		step.Status, step.Error = report.StepFailed, err.Error()
	}
	r.history.add(report.Entry{Kind: report.EntryAction, Step: step.Number, State: string(step.Status), Detail: cmp.Or(step.Error, step.Done, step.Evidence)})
	switch {
	case err == nil:
		return report.Passed, ""
	case ctx.Err() != nil:
		return report.Interrupted, "interrupted in step " + fmt.Sprint(step.Number) + ", " + step.Name
	}
	return verdict, fmt.Sprintf("step %d, %s: %v", step.Number, step.Name, err)
}

// look carries out a step that only looks.
func (r *runner) look(ctx context.Context, s Step, step *report.Step) (err error) {
	since := r.acted.from
	switch {
	case s.Since == "now":
		since = step.At
	case s.Since != "":
		since = r.begun[s.Since].from
	case s.Never != nil:
		since = r.acted.to
	}
	within := cmp.Or(s.Within.Std(), defaultWithin(r.scenario.Lab.Substrate))
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("not within %s", within))
	defer cancel()
	if s.Never != nil {
		step.Evidence, err = r.never(ctx, *s.Never, since)
	} else {
		step.Evidence, err = r.expect(ctx, *s.Expect, since)
	}
	return err
}

// act carries out a step that does something. The verdict is that of a run in which it fails.
func (r *runner) act(ctx context.Context, s Step, step *report.Step) (report.Verdict, error) {
	if s.Hold > 0 {
		select {
		case <-time.After(s.Hold.Std()):
			return report.Broken, nil
		case <-ctx.Done():
			return report.Broken, context.Cause(ctx)
		}
	}
	fault := control.Fault{Kind: s.Fault, Nodes: s.Nodes, Component: s.Component, Options: s.With}
	switch {
	case r.disarmed:
		step.Done, r.omitted = "left out", r.omitted || s.Mend == ""
		if s.Fault != "" {
			r.leftOut = append(r.leftOut, fault)
		}
		if s.Refused != "" {
			return report.Failed, errors.New("it was left out, and so nothing was refused")
		}
		return report.Broken, nil
	case s.Fault != "":
		return r.inflict(ctx, fault, s, step)
	case s.Mend != "":
		fault.Kind, fault.Clear, fault.Leave = s.Mend, true, s.Leave
		done, err := r.lab.Fault(ctx, fault)
		step.Done = done
		return report.Broken, err
	}
	done, err := actions[s.Do].do(ctx, r, s)
	step.Done = done
	if s.Refused == "" {
		return report.Broken, err
	}
	switch {
	case err == nil:
		return report.Failed, fmt.Errorf("it was not refused: %s", done)
	case ctx.Err() != nil:
		return report.Failed, err
	case !regexp.MustCompile(s.Refused).MatchString(err.Error()):
		return report.Failed, fmt.Errorf("it was refused, but not with %q: %w", s.Refused, err)
	}
	step.Done, step.Evidence = "it was refused", err.Error()
	return report.Passed, nil
}

// inflict breaks something, and waits until it was seen to be broken.
func (r *runner) inflict(ctx context.Context, f control.Fault, s Step, step *report.Step) (report.Verdict, error) {
	before, err := r.lab.Mark(ctx)
	if err != nil {
		return report.Broken, err
	}
	if step.Done, err = r.lab.Fault(ctx, f); err != nil {
		return report.Broken, err
	}
	within := cmp.Or(s.Within.Std(), defaultWithin(r.scenario.Lab.Substrate))
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("not within %s", within))
	defer cancel()
	step.Evidence, err = r.again(ctx, func(ctx context.Context) (bool, string) {
		proof, err := r.lab.Fired(ctx, f, before)
		if err != nil {
			return false, err.Error()
		}
		return proof.Fired, proof.Evidence
	})
	if err != nil {
		return report.Failed, fmt.Errorf("the fault was not seen to fire: %w; %s", err, step.Evidence)
	}
	return report.Broken, nil
}

func (s Step) kind() report.StepKind {
	switch {
	case s.Fault != "":
		return report.StepFault
	case s.Mend != "":
		return report.StepMend
	case s.Expect != nil:
		return report.StepExpect
	case s.Never != nil:
		return report.StepNever
	}
	return report.StepAction
}

// about are the nodes that a step is about.
func (s Step) about() []string {
	switch {
	case s.Expect != nil:
		return s.Expect.Nodes
	case s.Never != nil:
		return s.Never.Nodes
	}
	return s.Nodes
}
