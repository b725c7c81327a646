package netns

import (
	"context"
	"fmt"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
)

type fault = fleet.Case[*node]

// faults is what can be broken in this lab.
func (s *supervisor) faults() map[string]fleet.Breakage[*node] {
	type of = fleet.Breakage[*node]
	all := map[string]of{
		control.FaultFlatNetwork: {Inflict: s.flatten, Mend: s.unflatten, Broke: "services and cluster network are one layer-2 segment", Mended: "the networks are apart again"},
		control.FaultOpenRouter: {
			Inflict: func(context.Context, fault) error { return s.router.OpenAll() },
			Mend:    func(context.Context, fault) error { return s.router.Restore() },
			Broke:   "the router lets everything through", Mended: "the router follows its allow-list again",
		},
		control.FaultSwappedRoute: {
			Inflict: s.swapRoutes, Mend: s.unswapRoutes,
			Broke: "each hostname leads to the other node's agent", Mended: "each hostname leads to its own agent again", Told: "the verifier was told to ask them again",
		},
		control.FaultDeadAgent:    {Inflict: stopAgent, Mend: s.reviveAgent, Broke: "the agent is stopped", Mended: "the agent runs again", Told: "the verifier was told to ask it again"},
		control.FaultAgentKilled:  {Inflict: killAgent, Mend: s.reviveAgent, Broke: "the agent is killed", Mended: "the agent runs again", Told: "the verifier was told to ask it again"},
		control.FaultAgentRestart: {Inflict: s.restartAgent, Broke: "the agent was stopped and runs again; it has registered with the same keys"},
		control.FaultPartition:    {Inflict: s.partition, Mend: s.heal, Broke: "the node's link is cut", Mended: "the node's link is up again", Told: "the verifier was told to ask its agent again"},
		control.FaultLatency:      {Inflict: s.impair, Mend: s.impair, Broke: "the node's packets are held up in each direction", Mended: "the node's packets are no longer held up", Told: "the verifier was told to ask its agent again"},
		control.FaultLoss:         {Inflict: s.impair, Mend: s.impair, Broke: "packets of the node are lost in each direction", Mended: "the node's packets are no longer lost", Told: "the verifier was told to ask its agent again"},
		control.FaultNAT:          {Inflict: s.insertNAT, Mend: s.removeNAT, Broke: "the node is behind a NAT router; its connections were broken, and none gets in", Mended: "the node is no longer behind a NAT router", Told: "the verifier was told to ask its agent again"},
		control.FaultDeadTPM: {
			Inflict: killTPM, Mend: s.reviveTPM, Broke: "the TPM's process is killed",
			Mended: "the TPM runs again", Told: "its clock had gone back with the power, which the verifier does not forgive, so the agent was enrolled anew",
		},
		control.FaultUnknownName:    {Inflict: s.forgetName, Mend: s.knowName, Broke: "the ingress does not know the node's hostname", Mended: "the ingress knows the node's hostname again", Told: "the verifier was told to ask its agent again"},
		control.FaultIngressDown:    {Inflict: s.ingressDown, Mend: s.ingressUp, Broke: "the ingress is stopped", Mended: "the ingress runs again", Told: "the verifier was told to ask all agents again"},
		control.FaultIngressRestart: {Inflict: s.ingressRestart, Broke: "the ingress was stopped and runs again, with the routes that it had"},
		control.FaultMovedAddress:   {Inflict: s.moveIngress, Mend: s.moveIngress, Broke: "the load balancer has another address, which DNS and the router's rules know", Mended: "the load balancer has the address that it had"},
		control.FaultDNSFailure:     {Inflict: s.failDNS, Mend: s.mendDNS, Broke: "the services' DNS server fails", Mended: "the services' DNS server answers again", Told: "the verifier was told to ask all agents again"},
		control.FaultServiceDown:    {Inflict: s.serviceDown, Mend: s.serviceUp, Broke: "the %s is stopped", Mended: "the %s runs again, with the database that it had"},
		control.FaultServiceKilled:  {Inflict: s.serviceKilled, Mend: s.serviceUp, Broke: "the %s is killed", Mended: "the %s runs again, with the database that it had"},
		control.FaultDatabaseFull:   {Inflict: s.fillDisk, Mend: s.freeDisk, Broke: "the disk of the %s is full", Mended: "the disk of the %s has room again", Told: "the verifier was told to ask all agents again"},
		control.FaultClockSkew:      {Inflict: s.skewClock, Mend: s.mendClock, Broke: "the %s was stopped and runs again, with a wrong clock", Mended: "the %s was stopped and runs again, with the right clock", Told: "the verifier was told to ask all agents again"},
		control.FaultServiceRestart: {Inflict: s.serviceRestart, Broke: "the %s was stopped and runs again, with the database that it had"},
	}
	if s.plan.Keylime.Push() {
		for _, kind := range []string{control.FaultSwappedRoute, control.FaultUnknownName, control.FaultIngressDown, control.FaultIngressRestart, control.FaultMovedAddress} {
			all[kind] = of{Impossible: fleet.NothingLedToAgents}
		}
	}
	return all
}

// Fault implements control.Lab.
func (s *supervisor) Fault(ctx context.Context, f control.Fault) (string, error) {
	if err := s.mustBeUp(); err != nil {
		return "", err
	}
	if fleet.StartsOrStops(f.Kind) {
		release, err := s.holdAll(f.Nodes)
		if err != nil {
			return "", err
		}
		defer release()
	}
	done, err := fleet.Break(ctx, s.faults(), f, s.node)
	s.log.Info("fault", "kind", f.Kind, "nodes", f.Nodes, "component", f.Component, "options", f.Options, "clear", f.Clear, "error", err)
	return done, err
}

func (s *supervisor) flatten(context.Context, fault) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unbridge != nil {
		return fmt.Errorf("the networks are joined already")
	}
	undo, err := s.network.Bridge(plan.Services, plan.Cluster)
	s.unbridge = undo
	return err
}

func (s *supervisor) unflatten(context.Context, fault) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unbridge == nil {
		return nil
	}
	err := s.unbridge()
	s.unbridge = nil
	return err
}

func (s *supervisor) swapRoutes(_ context.Context, f fault) error {
	return s.routePair(f.On[0], f.On[1], f.On[1], f.On[0])
}

func (s *supervisor) unswapRoutes(ctx context.Context, f fault) error {
	if err := s.routePair(f.On[0], f.On[0], f.On[1], f.On[1]); err != nil {
		return err
	}
	return s.askAgain(ctx, f, f.On)
}

// routePair leads the hostname of a to x and that of b to y.
func (s *supervisor) routePair(a, x, b, y *node) error {
	if err := s.ingress.SetRoute(a.hostname, join(x.Address, x.Agent.Port)); err != nil {
		return err
	}
	return s.ingress.SetRoute(b.hostname, join(y.Address, y.Agent.Port))
}

func (s *supervisor) partition(_ context.Context, f fault) error {
	return s.network.Partition(f.On[0].Name)
}

func (s *supervisor) heal(ctx context.Context, f fault) error {
	if err := s.network.Heal(f.On[0].Name); err != nil {
		return err
	}
	return s.askAgain(ctx, f, f.On)
}

func (s *supervisor) insertNAT(ctx context.Context, f fault) error {
	return s.network.InsertNAT(ctx, f.On[0].Name)
}

func (s *supervisor) removeNAT(ctx context.Context, f fault) error {
	if err := s.network.RemoveNAT(f.On[0].Name); err != nil {
		return err
	}
	return s.askAgain(ctx, f, f.On)
}

// impair sets, or takes away, one of the things that can be wrong with a node's cable, and leaves the others.
func (s *supervisor) impair(ctx context.Context, f fault) error {
	n := f.On[0]
	n.mu.Lock()
	i := n.impaired
	n.mu.Unlock()
	switch {
	case f.Kind == control.FaultLatency && f.Clear:
		i.Delay, i.Jitter = 0, 0
	case f.Kind == control.FaultLatency:
		i.Delay, i.Jitter = f.Duration("delay"), f.Duration("jitter")
	case f.Clear:
		i.Loss = 0
	default:
		i.Loss = f.Percent("percent")
	}
	if err := s.network.Impair(n.Name, i); err != nil {
		return err
	}
	n.mu.Lock()
	n.impaired = i
	n.mu.Unlock()
	if !f.Clear {
		return nil
	}
	return s.askAgain(ctx, f, f.On)
}

func stopAgent(ctx context.Context, f fault) error { return f.On[0].stopAgent(ctx) }

func killAgent(ctx context.Context, f fault) error {
	n := f.On[0]
	n.mu.Lock()
	a := n.agent
	n.mu.Unlock()
	if a == nil || a.ended() != nil {
		return fmt.Errorf("no agent runs on %s", n.Name)
	}
	return a.kill(ctx)
}

// restartAgent does not ask the verifier: whether it notices is what is to be seen.
func (s *supervisor) restartAgent(ctx context.Context, f fault) error {
	if err := f.On[0].stopAgent(ctx); err != nil {
		return err
	}
	return f.On[0].startAgent(ctx)
}

func (s *supervisor) reviveAgent(ctx context.Context, f fault) error {
	if f.On[0].agentRuns() {
		return nil
	}
	if err := f.On[0].startAgent(ctx); err != nil {
		return err
	}
	return s.askAgain(ctx, f, f.On)
}

func killTPM(_ context.Context, f fault) error {
	f.On[0].mu.Lock()
	defer f.On[0].mu.Unlock()
	if f.On[0].tpm == nil {
		return fmt.Errorf("the TPM of %s is off", f.On[0].Name)
	}
	return f.On[0].tpm.Kill()
}

// reviveTPM starts the TPM again, which to the node is a power cut.
func (s *supervisor) reviveTPM(ctx context.Context, f fault) error {
	m := machines{s}
	if err := m.PowerOff(ctx, f.On[0], false); err != nil {
		return err
	}
	if err := m.PowerOn(ctx, f.On[0]); err != nil {
		return err
	}
	if f.Leave {
		return nil
	}
	return m.EnrolAgain(ctx, f.On[0])
}
