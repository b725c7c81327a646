package netns

import (
	"context"
	"errors"
	"fmt"
	"os"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
)

// machines is what can be done to the lab's nodes.
type machines struct{ s *supervisor }

var _ fleet.Machines[*node] = machines{}

// Act implements control.Lab.
func (s *supervisor) Act(ctx context.Context, a control.Action) (string, error) {
	if err := s.mustBeUp(); err != nil {
		return "", err
	}
	if control.AboutMembers(a.Kind) {
		return s.changeMembers(ctx, a)
	}
	if a.Kind == control.ActionReplaceAgent {
		return s.changeAgent(ctx, a)
	}
	return s.actOnNodes(ctx, a)
}

// actOnNodes does what is done to one node, or to two, and to nothing else.
func (s *supervisor) actOnNodes(ctx context.Context, a control.Action) (string, error) {
	names := []string{a.Node}
	if a.Other != "" {
		names = append(names, a.Other)
	}
	release, err := s.holdAll(names)
	if err != nil {
		return "", err
	}
	defer release()
	done, err := fleet.Act(ctx, machines{s}, a)
	s.log.Info("action", "kind", a.Kind, "node", a.Node, "other", a.Other, "error", err)
	return done, err
}

func (m machines) Find(name string) (*node, error) { return m.s.node(name) }

func (m machines) Running(_ context.Context, n *node) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.off, nil
}

// PowerOff also takes the node off the network, as a machine that is off: nobody refuses connections for it.
func (m machines) PowerOff(ctx context.Context, n *node, orderly bool) error {
	if err := m.s.network.Partition(n.Name); err != nil {
		return err
	}
	if !orderly {
		n.mu.Lock()
		var err error
		if n.tpm != nil {
			err = n.tpm.Kill()
		}
		n.mu.Unlock()
		if err != nil {
			return err
		}
	}
	if err := errors.Join(n.stopAgent(ctx), n.stopTPM(ctx), n.unmountSecure()); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.off = true
	return nil
}

func (m machines) PowerOn(ctx context.Context, n *node) error {
	if err := m.s.network.Heal(n.Name); err != nil {
		return err
	}
	before := n.starts()
	err := n.startTPM(ctx)
	if err == nil {
		err = n.startAgent(ctx)
	}
	if err != nil && n.starts() > before && n.unregistrable(ctx, err) {
		err = fmt.Errorf("%w: %w", fleet.ErrNotRegistered, err)
	} else if err != nil { // it stays off, so that it can be tried again
		return errors.Join(err, m.PowerOff(context.WithoutCancel(ctx), n, true))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.off = false
	return err
}

// NewTPM destroys the old TPM: its state is of no use to anybody who has not kept a copy of it before.
func (m machines) NewTPM(_ context.Context, n *node) error {
	if err := os.RemoveAll(m.s.dir.TPM(n.Name)); err != nil {
		return fmt.Errorf("take the old TPM out: %w", err)
	}
	n.withdraw()
	n.outdate()
	return fleet.CountReplacement(m.s.dir, n.Node)
}

func (m machines) Keylime() plan.Keylime { return m.s.plan.Keylime }

func (m machines) Delivered(n *node) bool { return n.Payload != nil && !n.refused() }

func (m machines) GivenUp(ctx context.Context, n *node) (bool, error) {
	uuid, _ := n.identityNow()
	return fleet.GivenUp(ctx, m.s.verifier, uuid)
}

func (m machines) Reactivate(ctx context.Context, nodes []*node) error {
	return m.s.reactivate(ctx, nodes)
}

func (m machines) Forget(ctx context.Context, n *node) error {
	uuid, former := n.identityNow()
	if err := fleet.Forget(ctx, m.s.verifier, m.s.registrar, uuid, former); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.enrolled.Done, n.forgotten, n.former = false, true, nil
	return nil
}

// RestartAgent ends an agent that cannot register, as the Rust agent ends by itself.
func (m machines) RestartAgent(ctx context.Context, n *node) error {
	if err := n.stopAgent(ctx); err != nil {
		return err
	}
	err := n.startAgent(ctx)
	if err == nil {
		return nil
	}
	n.mu.Lock()
	n.unregistered = err
	n.mu.Unlock()
	return errors.Join(err, n.stopAgent(context.WithoutCancel(ctx)))
}

func (m machines) Stale(ctx context.Context, n *node) (bool, error) {
	n.mu.Lock()
	unregistered := n.unregistered != nil
	n.mu.Unlock()
	if unregistered {
		return true, nil // for another AK, where it is not for the certificate
	}
	id, err := n.readTPM(ctx)
	if err != nil {
		return false, err
	}
	uuid, _ := n.identityNow()
	return fleet.Stale(ctx, m.s.registrar, uuid, id.Certificate)
}

func (m machines) EnrolAgain(ctx context.Context, n *node) error {
	uuid, former := n.identityNow()
	if err := fleet.ForgetAll(ctx, m.s.verifier, m.s.registrar, uuid, former); err != nil {
		return err
	}
	if err := n.enrol(ctx); err != nil {
		return err
	}
	if n.refused() {
		return nil // as the specification asks
	}
	n.mu.Lock()
	n.former = nil
	n.mu.Unlock()
	return n.awaitAttested(ctx)
}

// identityNow is the node's UUID, and those that it had with TPMs which have been replaced.
func (n *node) identityNow() (uuid string, former []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.uuid, append([]string(nil), n.former...)
}
