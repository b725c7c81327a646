package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/steps"
)

// labName is the name of every lab that a benchmark makes, in a state folder of its own.
const labName = "bench"

// labSpec is the lab that is measured: everything is as `keylab up` has it without a specification.
func labSpec(nodes int, ek spec.EKAlgorithm, agentBinary string) spec.Spec {
	s := spec.Spec{Name: labName, Nodes: spec.Nodes{Count: nodes}, TPM: spec.TPM{EKAlgorithm: ek}}
	if agentBinary != "" {
		s.Agent = spec.Agent{Kind: spec.AgentBinary, Path: agentBinary}
	}
	s.SetDefaults()
	return s
}

// upLab brings a new lab up and measures that: from the call until the verifier has attested every node, with everything in between.
// The processor time is the lab's own.
func upLab(ctx context.Context, s spec.Spec) (*lab.Lab, labStart, error) {
	var up labStart
	began := time.Now()
	l, err := lab.Up(ctx, s, lab.UpOptions{OnEvent: func(e lab.Event) { up.phases.event(began, e) }})
	if err != nil {
		return nil, labStart{}, fmt.Errorf("bring up a lab of %d nodes: %w", s.Nodes.Len(), err)
	}
	up.wall = time.Since(began)
	status, err := l.Status(ctx)
	if err == nil {
		up.cpu, err = cpuByPart(status.PID)
	}
	if err != nil {
		return nil, labStart{}, errors.Join(err, wipe(ctx, l))
	}
	return l, up, nil
}

// labStart is one start of a lab: how long it took, when its phases were, and the processor time of its parts.
type labStart struct {
	wall   time.Duration
	phases phases
	cpu    map[string]time.Duration
}

// total is the processor time of all parts.
func (s labStart) total() time.Duration {
	var sum time.Duration
	for _, cpu := range s.cpu {
		sum += cpu
	}
	return sum
}

// wipe takes a lab down and deletes its folder, also when the benchmark was interrupted.
func wipe(ctx context.Context, l *lab.Lab) error {
	_, err := l.Wipe(context.WithoutCancel(ctx))
	return err
}

// phase is one step of `up`, or the same step of all nodes: when it began and ended, counted from the call.
type phase struct {
	name       string
	begin, end time.Duration
}

// phases are those of one start.
type phases []phase

// event takes one line of a lab's progress.
func (p *phases) event(began time.Time, e lab.Event) {
	name, _, _ := strings.Cut(e.Step, "/")
	i := slices.IndexFunc(*p, func(x phase) bool { return x.name == name })
	switch {
	case e.State == string(steps.Start) && i < 0:
		*p = append(*p, phase{name: name, begin: e.Time.Sub(began)})
	case e.State == string(steps.Done) && i >= 0:
		(*p)[i].end = e.Time.Sub(began)
	}
}

// phaseFigures tells when each phase of `up` ended, in that order.
func phaseFigures(runs []labStart) []Figure {
	begin, end := map[string][]float64{}, map[string][]float64{}
	for _, run := range runs {
		for _, p := range run.phases {
			begin[p.name] = append(begin[p.name], seconds(p.begin))
			end[p.name] = append(end[p.name], seconds(p.end))
		}
	}
	var figures []Figure
	for name, samples := range end {
		figures = append(figures, detail("  "+name+" done after", samples).note("began after %s s", number(Summarize(begin[name]).Median)))
	}
	return byMedian(figures)
}

// cpuFigures tells what processor time each part of the lab took for the start.
func cpuFigures(runs []labStart) []Figure {
	parts := map[string][]float64{}
	for _, run := range runs {
		for part, cpu := range run.cpu {
			parts[part] = append(parts[part], seconds(cpu))
		}
	}
	var figures []Figure
	for part, samples := range parts {
		figures = append(figures, detail("  of that, "+part, samples))
	}
	return byMedian(figures)
}

// detail is a part of a repeated figure, in seconds. The whole is marked when it is noisy; its parts are not.
func detail(name string, samples []float64) Figure {
	f := repeated(name, "s", samples)
	f.Noisy = false
	return f
}

func byMedian(figures []Figure) []Figure {
	slices.SortFunc(figures, func(a, b Figure) int {
		return cmp.Or(cmp.Compare(a.Summary.Median, b.Summary.Median), cmp.Compare(a.Name, b.Name))
	})
	return figures
}
