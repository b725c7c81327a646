package netns

import (
	"context"
	"fmt"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
)

func (s *supervisor) faults() map[string]fleet.Breakage[*node] {
	type of = fleet.Breakage[*node]
	all := map[string]of{
		control.FaultFlatNetwork: {Inflict: s.flatten, Mend: s.unflatten, Broke: "services and cluster network are one layer-2 segment", Mended: "the networks are apart again"},
		control.FaultOpenRouter: {
			Inflict: func(context.Context, []*node) error { return s.router.OpenAll() },
			Mend:    func(context.Context, []*node) error { return s.router.Restore() },
			Broke:   "the router lets everything through", Mended: "the router follows its allow-list again",
		},
		control.FaultSwappedRoute: {
			Inflict: s.swapRoutes, Mend: s.unswapRoutes,
			Broke: "each hostname leads to the other node's agent", Mended: "each hostname leads to its own agent again; the verifier was told to ask them again",
		},
		control.FaultDeadAgent: {Inflict: killAgent, Mend: s.reviveAgent, Broke: "the agent is stopped", Mended: "the agent runs again, and the verifier was told to ask it again"},
		control.FaultPartition: {Inflict: s.partition, Mend: s.heal, Broke: "the node's link is cut", Mended: "the node's link is up again, and the verifier was told to ask its agent again"},
		control.FaultDeadTPM: {
			Inflict: killTPM, Mend: s.reviveTPM, Broke: "the TPM's process is killed",
			Mended: "the TPM runs again; its clock had gone back with the power, which the verifier does not forgive, so the agent was enrolled anew",
		},
	}
	if s.plan.Keylime.Push() {
		delete(all, control.FaultSwappedRoute) // nothing is led to an agent
	}
	return all
}

// Fault implements control.Lab.
func (s *supervisor) Fault(ctx context.Context, f control.Fault) (string, error) {
	if err := s.mustBeUp(); err != nil {
		return "", err
	}
	done, err := fleet.Break(ctx, s.faults(), f, s.node)
	s.log.Info("fault", "kind", f.Kind, "nodes", f.Nodes, "clear", f.Clear, "error", err)
	return done, err
}

func (s *supervisor) flatten(context.Context, []*node) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unbridge != nil {
		return fmt.Errorf("the networks are joined already")
	}
	undo, err := s.network.Bridge(plan.Services, plan.Cluster)
	s.unbridge = undo
	return err
}

func (s *supervisor) unflatten(context.Context, []*node) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unbridge == nil {
		return nil
	}
	err := s.unbridge()
	s.unbridge = nil
	return err
}

func (s *supervisor) swapRoutes(_ context.Context, nodes []*node) error {
	return s.routePair(nodes[0], nodes[1], nodes[1], nodes[0])
}

func (s *supervisor) unswapRoutes(ctx context.Context, nodes []*node) error {
	if err := s.routePair(nodes[0], nodes[0], nodes[1], nodes[1]); err != nil {
		return err
	}
	return s.reactivate(ctx, nodes)
}

// routePair leads the hostname of a to x and that of b to y.
func (s *supervisor) routePair(a, x, b, y *node) error {
	if err := s.ingress.SetRoute(a.hostname, join(x.Address, x.Agent.Port)); err != nil {
		return err
	}
	return s.ingress.SetRoute(b.hostname, join(y.Address, y.Agent.Port))
}

func (s *supervisor) partition(_ context.Context, nodes []*node) error {
	return s.network.Partition(nodes[0].Name)
}

func (s *supervisor) heal(ctx context.Context, nodes []*node) error {
	if err := s.network.Heal(nodes[0].Name); err != nil {
		return err
	}
	return s.reactivate(ctx, nodes)
}

func killAgent(ctx context.Context, nodes []*node) error { return nodes[0].stopAgent(ctx) }

func (s *supervisor) reviveAgent(ctx context.Context, nodes []*node) error {
	if nodes[0].agentRuns() {
		return nil
	}
	if err := nodes[0].startAgent(ctx); err != nil {
		return err
	}
	return s.reactivate(ctx, nodes)
}

// reactivate has the verifier ask the nodes again, where it had given them up.
func (s *supervisor) reactivate(ctx context.Context, nodes []*node) error {
	uuids := map[string]string{}
	for _, n := range nodes {
		uuids[n.Name], _ = n.identityNow()
	}
	return fleet.Reactivate(ctx, s.verifier, uuids)
}

func killTPM(_ context.Context, nodes []*node) error {
	nodes[0].mu.Lock()
	defer nodes[0].mu.Unlock()
	if nodes[0].tpm == nil {
		return fmt.Errorf("the TPM of %s is off", nodes[0].Name)
	}
	return nodes[0].tpm.Kill()
}

// reviveTPM starts the TPM again, which to the node is a power cut.
func (s *supervisor) reviveTPM(ctx context.Context, nodes []*node) error {
	m := machines{s}
	if err := m.PowerOff(ctx, nodes[0], false); err != nil {
		return err
	}
	if err := m.PowerOn(ctx, nodes[0]); err != nil {
		return err
	}
	return m.EnrolAgain(ctx, nodes[0])
}
