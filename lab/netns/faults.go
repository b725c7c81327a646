package netns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
)

// fault is one thing that can be broken on purpose, and mended.
type fault struct {
	nodes         int // how many nodes it names
	inflict       func(context.Context, []*node) error
	mend          func(context.Context, []*node) error
	broke, mended string
}

func (s *supervisor) faults() map[string]fault {
	return map[string]fault{
		"flat-network":  {0, s.flatten, s.unflatten, "services and cluster network are one layer-2 segment", "the networks are apart again"},
		"open-router":   {0, func(context.Context, []*node) error { return s.router.OpenAll() }, func(context.Context, []*node) error { return s.router.Restore() }, "the router lets everything through", "the router follows its allow-list again"},
		"swapped-route": {2, s.swapRoutes, s.unswapRoutes, "each hostname leads to the other node's agent", "each hostname leads to its own agent again; the verifier was told to ask them again"},
		"dead-agent":    {1, killAgent, s.reviveAgent, "the agent is stopped", "the agent runs again, and the verifier was told to ask it again"},
		"partition":     {1, s.partition, s.heal, "the node's link is cut", "the node's link is up again, and the verifier was told to ask its agent again"},
		"dead-tpm":      {1, killTPM, nil, "the TPM's process is killed", ""},
	}
}

// Fault implements control.Lab.
func (s *supervisor) Fault(ctx context.Context, f control.Fault) (string, error) {
	if phase := s.phase(); phase != control.Running && phase != control.Degraded {
		return "", fmt.Errorf("the lab is %s: wait until it is up", phase)
	}
	all := s.faults()
	kind, ok := all[f.Kind]
	if !ok {
		return "", fmt.Errorf("there is no fault %q; there are %s", f.Kind, strings.Join(slices.Sorted(maps.Keys(all)), ", "))
	}
	if len(f.Nodes) != kind.nodes {
		return "", fmt.Errorf("fault %s needs %d node names, not %d", f.Kind, kind.nodes, len(f.Nodes))
	}
	var nodes []*node
	for _, name := range f.Nodes {
		n, err := s.node(name)
		if err != nil {
			return "", err
		}
		nodes = append(nodes, n)
	}
	act, done := kind.inflict, kind.broke
	if f.Clear {
		act, done = kind.mend, kind.mended
	}
	if act == nil {
		return "", fmt.Errorf("fault %s cannot be mended while the lab runs: take it down and up", f.Kind)
	}
	if err := act(ctx, nodes); err != nil {
		return "", fmt.Errorf("fault %s: %w", f.Kind, err)
	}
	s.log.Info("fault", "kind", f.Kind, "nodes", f.Nodes, "clear", f.Clear)
	return done, nil
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

// reactivate does what an operator would after the repair: a verifier that has given an agent up asks it no more by itself.
func (s *supervisor) reactivate(ctx context.Context, nodes []*node) error {
	for _, n := range nodes {
		a, err := s.verifier.Agent(ctx, n.uuid)
		if errors.Is(err, keylime.ErrNotFound) || err == nil && !a.OperationalState.Stopped() {
			continue
		}
		if err == nil {
			err = s.verifier.Reactivate(ctx, n.uuid)
		}
		if err != nil {
			return fmt.Errorf("reactivate %s at the verifier: %w", n.Name, err)
		}
	}
	return nil
}

func killTPM(_ context.Context, nodes []*node) error {
	nodes[0].mu.Lock()
	defer nodes[0].mu.Unlock()
	return nodes[0].tpm.Kill()
}
