package scenario

import (
	"context"
	"fmt"
	"slices"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/report"
)

// nothingLeftOut is what a disarmed run says of a scenario that does and breaks nothing: its cause is the lab itself, and it is judged as ever.
const nothingLeftOut = "there is nothing to leave out: what it shows is caused by its lab"

// acts tells whether the scenario, as it runs, does or breaks anything.
func (s Scenario) acts() bool {
	return slices.ContainsFunc(s.Steps, func(step Step) bool { return step.Do != "" || step.Fault != "" })
}

// missed judges the step at which a disarmed run has failed. It has shown what it was to show if that step waited for what was left out; then the step
// counts as passed. Any other failure is one.
func (r *runner) missed(s Step, step *report.Step, why string) (report.Verdict, string) {
	s = r.cast.step(s)
	condition, other := s.Expect, ""
	if s.Never != nil {
		condition = s.Never
	}
	switch {
	case !r.omitted:
		other = "nothing had been left out by then"
	case s.Never != nil && !condition.idle(): // a lab to which nothing is done does no such thing either
		other = "it is about what must not happen"
	case condition != nil && condition.idle() && !slices.ContainsFunc(condition.Nodes, func(n string) bool { return r.cast.named[n] }):
		other = "nothing that was left out is about " + condition.sentence()
	}
	if other != "" {
		return report.Failed, fmt.Sprintf("%s; it did not fail for want of what was left out: %s", why, other)
	}
	r.showed = "as it must, it failed without what was left out: " + why
	step.Status, step.Done, step.Evidence, step.Error = report.StepPassed, "as it must be without what was left out, this was not met", step.Error, ""
	return report.Passed, ""
}

// idle tells whether a condition asks for no more than what every lab does by itself: good attestations.
func (w Condition) idle() bool {
	return len(w.Nodes) > 0 && w.Detail == "" && (w.State == "" || w.State == fleet.StateAttested)
}

// tellApart judges a disarmed run in which every expectation was met: what tells it from an armed one is that its faults were not seen to fire.
func (r *runner) tellApart(ctx context.Context) (report.Verdict, string) {
	for _, f := range r.leftOut {
		proof, err := r.lab.Fired(ctx, f, control.Mark{Time: r.history.start})
		if err != nil {
			return report.Broken, fmt.Sprintf("look for fault %s: %v", f.Kind, err)
		}
		if !proof.Fired {
			r.showed = fmt.Sprintf("every expectation was met without the fault %s, but it was not seen to fire: %s", f.Kind, proof.Evidence)
			return report.Passed, ""
		}
	}
	return report.Failed, "every expectation was met though all was left out: nothing in it would notice that nothing happens"
}
