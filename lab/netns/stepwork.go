package netns

import (
	"context"
	"errors"
	"fmt"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/steps"
)

// work is what one step of the plan does here, and how it is undone.
type work struct {
	do, undo func(context.Context) error
}

// steps gives the plan's steps their work. A step that the plan names and nobody does is a mistake found at once.
func (s *supervisor) steps() []steps.Step {
	works := map[string]work{
		plan.StepNetwork:   {s.buildNetwork, func(context.Context) error { return s.closeNetwork() }},
		plan.StepEKCA:      {s.openCAs, nil},
		plan.StepConfig:    {s.configureKeylime, s.closeForks},
		plan.StepDNS:       {s.startDNS, func(context.Context) error { return s.closeDNS() }},
		plan.StepIngress:   {s.startIngress, func(context.Context) error { return s.closeIngress() }},
		plan.StepRegistrar: {s.startRegistrar, s.stopService(plan.Registrar)},
		plan.StepVerifier:  {s.startVerifier, s.stopService(plan.Verifier)},
		plan.StepTenant:    {s.startTenant, s.stopTenant},
		plan.StepPolicies:  {s.makePolicies, nil},
	}
	for _, n := range s.nodes {
		works[plan.NodeStep(plan.StepTPM, n.Name)] = work{limited(s.crypto, n.startTPM), n.stopTPM}
		works[plan.NodeStep(plan.StepAgent, n.Name)] = work{limited(s.crypto, n.startAgent), n.stopAgent}
		works[plan.NodeStep(plan.StepEnrol, n.Name)] = work{n.enrolFirst, nil}
		works[plan.NodeStep(plan.StepAttest, n.Name)] = work{n.awaitAttested, nil}
	}
	var list []steps.Step
	for _, p := range s.plan.Steps {
		w, ok := works[p.Name]
		if !ok {
			w.do = func(context.Context) error { return fmt.Errorf("this substrate does not know the step %q", p.Name) }
		}
		list = append(list, steps.Step{Name: p.Name, After: p.After, Do: w.do, Undo: w.undo, UndoFailed: true})
	}
	return list
}

// limited lets few of the steps that cost processor time run at once: more would only make each of them late.
func limited(slots chan struct{}, do func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			return do(ctx)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *supervisor) openCAs(context.Context) error {
	cas, err := fleet.OpenCAs(s.dir, s.plan.EKCA)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cas = cas
	return err
}

func (s *supervisor) closeNetwork() error {
	s.mu.Lock()
	network := s.network
	s.mu.Unlock()
	if network == nil {
		return nil
	}
	return network.Close()
}

func (s *supervisor) closeDNS() error {
	var errs []error
	for _, d := range s.dns {
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

func (s *supervisor) closeIngress() error {
	if s.ingress == nil {
		return nil
	}
	return s.ingress.Close()
}
