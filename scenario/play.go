package scenario

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"keylab.dev/keylab/graph"
	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/report"
)

// Options say how a scenario is run.
type Options struct {
	// Lab is a running lab to use; nil: one is brought up, and wiped afterwards.
	Lab *lab.Lab
	// Mode is the model of attestation; empty: the first that the scenario has.
	Mode spec.Mode
	// Substrate is what the lab is built from; empty: what the scenario says.
	Substrate spec.Substrate
	// Seed is that of the random choices.
	Seed uint64
	// Disarmed leaves out everything that is done or broken. The run passes if the scenario then fails for want of it, as one that proves anything must.
	Disarmed bool
	// Retain leaves a lab as it is when its run has not passed.
	Retain bool
	// Version is keylab's own, for the report.
	Version string
	// OnLab receives the progress of the lab that is brought up, OnStep each step when it begins (without a status) and when it has ended.
	OnLab  func(lab.Event)
	OnStep func(report.Step)
}

// Prepare is the scenario as it would run: in one mode and on one substrate. The error says why it cannot.
func (s Scenario) Prepare(o Options) (Scenario, error) {
	s, err := s.In(o.Mode)
	if err != nil {
		return s, err
	}
	if o.Substrate != "" && o.Substrate != s.Lab.Substrate {
		s.Lab.Substrate, s.Lab.Timeouts.Ready = o.Substrate, 0
		s.Lab.SetDefaults()
		if err := s.Lab.Validate(); err != nil {
			return s, fmt.Errorf("scenario %s on %s: %w", s.Name, o.Substrate, err)
		}
	}
	if !slices.Contains(s.Substrates, s.Lab.Substrate) {
		return s, fmt.Errorf("scenario %s is %w the substrate %s", s.Name, ErrNotFor, s.Lab.Substrate)
	}
	return s, nil
}

// Run carries a scenario out, and says what happened; also when ctx ends in the middle. A lab that it brought up is gone when it returns.
func Run(ctx context.Context, s Scenario, o Options) report.Run {
	run := report.Run{
		Schema: report.RunSchema, Scenario: s.Name, Title: s.Title, Keylab: o.Version, Seed: o.Seed, Started: time.Now(),
		Question: s.About.Question, Happens: s.About.Happens, Why: s.About.Why, Fleet: s.About.Fleet,
	}
	h := newHistory()
	p, err := s.Prepare(o)
	if err == nil {
		run.Substrate, run.Mode, run.Keylime, run.Agent = string(p.Lab.Substrate), string(p.Lab.Keylime.Mode), p.Lab.Keylime.Version, string(p.Lab.Agent.Kind)
		err = play(ctx, p, o, h, &run)
	}
	if err != nil {
		run.Verdict, run.Error = report.Broken, err.Error()
		if ctx.Err() != nil {
			run.Verdict = report.Interrupted
		}
	}
	run.Duration = h.now()
	v, _ := h.view()
	run.History = v.entries
	return run
}

// play brings the lab up, unless there is one, carries the steps out, and takes the lab down.
func play(ctx context.Context, s Scenario, o Options, h *history, run *report.Run) (err error) {
	l := o.Lab
	if l == nil {
		if l, err = up(ctx, s, o, h, run); err != nil {
			return err
		}
		defer func() {
			if o.Retain && run.Verdict != report.Passed {
				return
			}
			err = errors.Join(err, down(ctx, l, h, run, o))
		}()
	}
	run.Lab = l.Name()
	r := &runner{scenario: s, lab: l, cast: newCast(s, o.Seed), history: h, disarmed: o.Disarmed, onStep: o.OnStep}
	if err := r.fits(ctx); err != nil {
		return err
	}
	run.Verdict, run.Error = r.steps(ctx)
	run.Disarmed = r.showed
	run.Polls, run.Polling = int(r.polls.Load()), time.Duration(r.polling.Load())
	run.Steps = append(run.Steps, r.finished...)
	run.Runbook = r.runbook
	run.Gaps = h.gaps(s.Nodes(), h.now())
	return collect(ctx, l, h, run)
}

// up brings up a lab of the run's own.
func up(ctx context.Context, s Scenario, o Options, h *history, run *report.Run) (*lab.Lab, error) {
	name, err := labName(s.Name)
	if err != nil {
		return nil, err
	}
	domain := s.Lab.Networks.Domain
	if domain == "agents."+s.Lab.Name+".test" {
		s.Lab.Networks.Domain = "" // follows from the new name
	}
	s.Lab.Name = name
	run.Lab = name
	step := report.Step{Kind: report.StepLab, Name: "bring the lab up", At: h.now()}
	tell(o, step)
	l, err := lab.Up(ctx, s.Lab, lab.UpOptions{Retain: o.Retain, OnEvent: o.OnLab})
	finish(&step, h, run, o, err)
	if err != nil {
		return nil, fmt.Errorf("bring the lab up: %w", err)
	}
	return l, nil
}

func down(ctx context.Context, l *lab.Lab, h *history, run *report.Run, o Options) error {
	step := report.Step{Kind: report.StepLab, Name: "take the lab down", At: h.now()}
	tell(o, step)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downTimeout)
	defer cancel()
	_, err := l.Wipe(ctx)
	finish(&step, h, run, o, err)
	if err != nil {
		return fmt.Errorf("take the lab down: %w", err)
	}
	return nil
}

// downTimeout is how long the end of a lab may take, also of one on Kubernetes.
const downTimeout = 5 * time.Minute

func finish(step *report.Step, h *history, run *report.Run, o Options, err error) {
	step.Duration, step.Status = h.now()-step.At, report.StepPassed
	if err != nil {
		step.Status, step.Error = report.StepFailed, err.Error()
	}
	run.Steps = append(run.Steps, *step)
	tell(o, *step)
}

func tell(o Options, s report.Step) {
	if o.OnStep != nil {
		o.OnStep(s)
	}
}

// labName is a name for the lab of one run, that no other run has.
func labName(scenario string) (string, error) {
	b := make([]byte, 3)
	if _, err := rand.Read(b); err != nil {
		return "", err
	}
	return strings.Trim(scenario[:min(len(scenario), 20)], "-") + "-" + hex.EncodeToString(b), nil
}

// fits tells whether the lab has the nodes that the scenario speaks of.
func (r *runner) fits(ctx context.Context) error {
	s, err := r.lab.Status(ctx)
	if err != nil {
		return err
	}
	var has []string
	for _, n := range s.Nodes {
		has = append(has, n.Name)
	}
	for _, n := range r.scenario.Nodes() {
		if !slices.Contains(has, n) {
			return fmt.Errorf("scenario %s needs a node %q; the lab has %s", r.scenario.Name, n, strings.Join(has, ", "))
		}
	}
	if string(r.scenario.Lab.Substrate) != s.Substrate {
		return fmt.Errorf("the scenario is run for the substrate %s, and the lab is built from %s", r.scenario.Lab.Substrate, s.Substrate)
	}
	r.history.observe(r.history.now(), s)
	return nil
}

// collect gathers what the report needs beside the history. It is done also when the run was interrupted.
func collect(ctx context.Context, l *lab.Lab, h *history, run *report.Run) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	s, err := l.Status(ctx)
	if err == nil {
		h.observe(h.now(), s)
		for _, n := range s.Nodes {
			run.Nodes = append(run.Nodes, report.RunNode{Name: n.Name, UUID: n.UUID, Hostname: n.Hostname, Address: n.Address, State: n.State, Detail: n.Detail, Attestations: h.count(n.Name)})
		}
	} else {
		h.unasked(err)
	}
	certificates, err := l.Certificates()
	if err != nil {
		return fmt.Errorf("read the EK CAs: %w", err)
	}
	run.Certificates = certificates
	if s.Lab != "" {
		if err := draw(l, s, run); err != nil {
			return err
		}
	}
	if run.Verdict == report.Failed || run.Verdict == report.Broken {
		return logs(ctx, l, run)
	}
	return nil
}

// draw has the report show the lab as it is at the end.
func draw(l *lab.Lab, s control.Status, run *report.Run) error {
	p, err := l.Planned()
	if err != nil {
		return err
	}
	var picture strings.Builder
	g := graph.Of(p, &s)
	g.Certify(run.Certificates)
	if err := g.SVG(&picture); err != nil {
		return fmt.Errorf("draw the lab: %w", err)
	}
	run.Topology = picture.String()
	return nil
}

func (h *history) count(node string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.counts[node]
}

var _ Lab = (*lab.Lab)(nil)
