package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/report"
	"keylab.dev/keylab/scenario"
	"keylab.dev/keylab/scenarios"
)

// observed is how long a lab is watched, once by nobody and once by the engine of scenarios.
const observed = 15 * time.Second

// measureScenarios runs the library as `keylab run --all --mode all` does, and measures what the observation of a lab costs.
func (r *runner) measureScenarios(ctx context.Context) error {
	observation, err := r.observation(ctx)
	if err != nil {
		return err
	}
	library, err := r.library(ctx)
	if err != nil {
		return err
	}
	r.report.Sections = append(r.report.Sections, library, observation)
	return nil
}

// library runs every scenario in every mode that it is for.
func (r *runner) library(ctx context.Context) (Section, error) {
	all, err := scenarios.All()
	if err != nil {
		return Section{}, err
	}
	var jobs []scenario.Job
	for _, s := range all {
		for _, mode := range s.Modes {
			o := scenario.Options{Mode: mode, Substrate: spec.SubstrateNetns, Seed: 1, Version: r.options.Version}
			if _, err := s.Prepare(o); errors.Is(err, scenario.ErrNotFor) {
				continue
			} else if err != nil {
				return Section{}, err
			}
			jobs = append(jobs, scenario.Job{Scenario: s, Options: o, Attempt: 1})
		}
	}
	budget := scenario.DefaultBudget()
	section := Section{Title: fmt.Sprintf("the library of scenarios, %d runs, %d labs at once", len(jobs), budget.Labs)}
	before, err := processorTime()
	if err != nil {
		return Section{}, err
	}
	began := time.Now()
	runs := scenario.RunAll(ctx, jobs, budget, func(scenario.Job) {}, func(j scenario.Job, run report.Run) {
		r.progress("scenario %s: %s, %.1f s", j.Name(), run.Verdict, run.Duration.Seconds())
	})
	wall := time.Since(began)
	after, err := processorTime()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return Section{}, err
	}
	section.add(
		repeated("until all have ended", "s", []float64{seconds(wall)}),
		repeated("processor time of all, labs included", "s", []float64{seconds(after - before)}),
	)
	section.addRuns(jobs, runs)
	section.say("Labs side by side slow one another down. Most of a scenario's time goes into waiting, for the verifier's retries above all.")
	return section, nil
}

// addRuns adds what the runs took: all together in their parts, and each.
func (s *Section) addRuns(jobs []scenario.Job, runs []report.Run) {
	var whole, up, steps, down []float64
	var each []Figure
	for i, run := range runs {
		if !run.Passed() {
			s.say("%s did not pass (%s), and is not counted: %s", jobs[i].Name(), run.Verdict, run.Reason())
			continue
		}
		var lab []float64 // up and down
		rest := run.Duration
		for _, step := range run.Steps {
			if step.Kind == report.StepLab {
				lab = append(lab, seconds(step.Duration))
				rest -= step.Duration
			}
		}
		if len(lab) != 2 {
			s.say("%s brought no lab of its own up and down, and is not counted", jobs[i].Name())
			continue
		}
		whole, up, steps, down = append(whole, seconds(run.Duration)), append(up, lab[0]), append(steps, seconds(rest)), append(down, lab[1])
		each = append(each, repeated("  "+jobs[i].Name(), "s", []float64{seconds(run.Duration)}))
	}
	s.add(
		distribution("one run", "s", whole),
		distribution("  of that, bringing its lab up", "s", up),
		distribution("  of that, its steps", "s", steps),
		distribution("  of that, taking its lab down", "s", down),
	)
	s.add(each...)
}

// observation measures what it costs to have a lab observed: the processor time of lab and observer with and without.
func (r *runner) observation(ctx context.Context) (section Section, err error) {
	section.Title = fmt.Sprintf("observation of a lab by the engine of scenarios, %d nodes, a quote of each every 2 s", r.options.Nodes)
	r.progress("scenarios: what observation costs")
	l, _, err := upLab(ctx, labSpec(r.options.Nodes, spec.EKRSA2048, ""))
	if err != nil {
		return section, err
	}
	defer func() { err = errors.Join(err, wipe(ctx, l)) }()
	watch, err := scenario.Decode("observation.yaml", fmt.Appendf(nil, `apiVersion: keylab/v1alpha1
kind: Scenario
name: observation
title: A lab is observed, and nothing is done
lab: {nodes: %d}
steps:
  - {hold: %s}
  - {never: {nodes: [all], state: failed}, since: start}
`, r.options.Nodes, observed))
	if err != nil {
		return section, err
	}
	var idle, watched, rate, each []float64
	for range r.options.Repetitions {
		alone, err := spent(ctx, l, func() error {
			select {
			case <-time.After(observed):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
		if err != nil {
			return section, err
		}
		var run report.Run
		seen, err := spent(ctx, l, func() error {
			run = scenario.Run(ctx, watch, scenario.Options{Lab: l})
			if !run.Passed() {
				return fmt.Errorf("observe a lab: %s: %s", run.Verdict, run.Reason())
			}
			return nil
		})
		if err != nil {
			return section, err
		}
		idle, watched = append(idle, 100*alone), append(watched, 100*seen)
		rate, each = append(rate, float64(run.Polls)/observed.Seconds()), append(each, milliseconds(run.Polling)/float64(run.Polls))
	}
	section.add(
		repeated("polls", "1/s", rate),
		repeated("one poll, until it is answered", "ms", each),
		repeated("processor, a lab that nobody observes", "%", idle),
		repeated("processor, the same lab and its observer", "%", watched),
	)
	section.say("100 %% is one processor. Lab and observer are all processes of the lab, and this one; the report that is made in the end is part of it.")
	return section, nil
}

// spent is the share of one processor that a lab and this process take while something goes on.
func spent(ctx context.Context, l *lab.Lab, do func() error) (float64, error) {
	status, err := l.Status(ctx)
	if err != nil {
		return 0, err
	}
	total := func() (time.Duration, error) {
		sum, err := own(unix.RUSAGE_SELF)
		if err != nil {
			return 0, err
		}
		parts, err := cpuByPart(status.PID)
		for _, cpu := range parts {
			sum += cpu
		}
		return sum, err
	}
	before, err := total()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := do(); err != nil {
		return 0, err
	}
	after, err := total()
	return (after - before).Seconds() / time.Since(began).Seconds(), err
}

// processorTime is that of this process and of all that it has started and that have ended: labs that are gone among them, as each is one child.
func processorTime() (time.Duration, error) {
	self, err := own(unix.RUSAGE_SELF)
	if err != nil {
		return 0, err
	}
	children, err := own(unix.RUSAGE_CHILDREN)
	return self + children, err
}

// own is processor time by getrusage(2), user and system.
func own(who int) (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		return 0, os.NewSyscallError("getrusage", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
