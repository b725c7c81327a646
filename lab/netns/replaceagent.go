package netns

import (
	"context"
	"errors"
	"fmt"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/roster"
	"keylab.dev/keylab/lab/spec"
)

// changeAgent puts another agent on a node, which specification and plan in the lab's folder remember: nobody else may change them meanwhile.
func (s *supervisor) changeAgent(ctx context.Context, a control.Action) (string, error) {
	ctx, done, err := s.changeAlone(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	return s.actOnNodes(ctx, a)
}

func (m machines) ReplaceAgent(ctx context.Context, n *node, name string, kind spec.AgentKind, path string) error {
	kept, next, err := roster.WithAgent(m.s.dir, m.s.memberPlan(), m.s.plan, name, kind, path)
	if err != nil {
		return err
	}
	planned, _ := next.Node(name)
	if err := fleet.Runnable(planned); err != nil {
		return err
	}
	before := n.planned().Agent
	if err := n.stopAgent(ctx); err != nil {
		return err
	}
	n.setProgram(planned.Agent)
	refused := n.startReplaced(ctx)
	if refused != nil && !errors.Is(refused, fleet.ErrNotRegistered) {
		return n.putBack(ctx, before, refused)
	}
	if err := roster.Write(m.s.dir, kept, next); err != nil {
		return n.putBack(ctx, before, err)
	}
	m.s.setMembers(m.s.allNodes(), next)
	return refused
}

// startReplaced starts the node's new agent. ErrNotRegistered: the registrar refuses it, so that it was ended, as the Rust agent ends by itself.
func (n *node) startReplaced(ctx context.Context) error {
	before := n.starts()
	err := n.startAgent(ctx)
	if err == nil {
		return nil
	}
	if refusedToRegister(err) && n.starts() > before && n.unregistrable(ctx, err) {
		return fmt.Errorf("%w: %w", fleet.ErrNotRegistered, err)
	}
	return err
}

// putBack has the node run the agent again that it had, and says why.
func (n *node) putBack(ctx context.Context, old plan.Agent, why error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(why, cause) {
		why = errors.Join(cause, why)
	}
	ctx, cancel := fleet.Limited(context.WithoutCancel(ctx))
	defer cancel()
	err := n.stopAgent(ctx)
	n.setProgram(old)
	if err = errors.Join(err, n.startAgent(ctx)); err != nil {
		return errors.Join(why, fmt.Errorf("start the agent again that %s had: %w", n.Name, err))
	}
	return fmt.Errorf("it runs the agent again that it had, for the other one did not start: %w", why)
}

// planned is the node's part of the plan, with the agent that it has now.
func (n *node) planned() plan.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.plannedLocked()
}

func (n *node) plannedLocked() plan.Node {
	p := n.Node
	if n.program != nil {
		p.Agent = *n.program
	}
	return p
}

func (n *node) setProgram(a plan.Agent) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.program = &a
}
