package netns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/netns/sandbox"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/roster"
	"keylab.dev/keylab/lab/spec"
)

// changeMembers has a node join or leave the running lab. Nothing else of the lab is started again for it.
func (s *supervisor) changeMembers(ctx context.Context, a control.Action) (done string, err error) {
	if err := a.Check(); err != nil {
		return "", err
	}
	defined, err := a.Defined()
	if err != nil {
		return "", err
	}
	ctx, alone, err := s.changeAlone(ctx)
	if err != nil {
		return "", err
	}
	defer alone()
	s.verifying.Lock() // who proves the lab counts on its nodes
	defer s.verifying.Unlock()
	ctx, end := fleet.Limited(ctx)
	defer end()
	if a.Kind == control.ActionAdd {
		done, err = s.join(ctx, defined)
	} else {
		done, err = s.leave(ctx, a.Node)
	}
	s.log.Info("action", "kind", a.Kind, "node", a.Node, "error", err)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", a.Kind, a.Node, err)
	}
	return done, nil
}

// changeAlone has one change what the lab's folder says of its nodes, until done. What is under way ends when the lab is taken down.
func (s *supervisor) changeAlone(ctx context.Context) (_ context.Context, done func(), err error) {
	s.changing.Lock()
	if err := s.mustBeUp(); err != nil { // it may have been taken down meanwhile
		s.changing.Unlock()
		return ctx, nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-s.down:
			cancel(errTakenDown)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		s.changing.Unlock()
	}, nil
}

// join makes one more node, which for the rest is as the lab's specification has them by default, and has it attested. What fails is taken back.
func (s *supervisor) join(ctx context.Context, defined spec.Node) (string, error) {
	name := defined.Name
	kept, next, err := s.planJoin(defined)
	if err != nil {
		return "", err
	}
	p, _ := next.Node(name)
	n := &node{Node: p, s: s}
	if n.measured, err = fleet.Measured(s.dir, next.Lab, p, n.openTPM); err != nil {
		return "", err
	}
	forget, err := roster.Reserve(s.dir, next, name)
	if err != nil {
		return "", err
	}
	n.acting.Lock()
	defer n.acting.Unlock()
	s.setMembers(append(slices.Clone(s.allNodes()), n), next)
	err = s.bringUp(ctx, n)
	if err == nil {
		err = roster.Write(s.dir, kept, next)
	}
	if err != nil {
		if why := context.Cause(ctx); why != nil && !errors.Is(err, why) {
			err = errors.Join(err, why)
		}
		back := context.WithoutCancel(ctx)
		return "", errors.Join(err, s.takeBack(back, n), forget())
	}
	if n.refused() {
		return fmt.Sprintf("it joined the lab at %s; the tenant refused it: %s", n.Address, n.enrolled.Message), nil
	}
	return fmt.Sprintf("it joined the lab at %s: its agent has registered, and the verifier had a good quote", n.Address), nil
}

// takeBackLimit is how long each service may take to forget a node that could not join: it may be for the service that it could not.
const takeBackLimit = 5 * time.Second

// takeBack leaves nothing of a node that could not join. What one service does not do, the other does all the same.
func (s *supervisor) takeBack(ctx context.Context, n *node) error {
	var errs []error
	if uuid, _ := n.identityNow(); uuid != "" && !s.twin(n) {
		asked, cancel := context.WithTimeout(ctx, takeBackLimit)
		defer cancel()
		errs = append(errs, fleet.ForgetAll(asked, s.verifier, s.registrar, uuid, nil))
		told, cancel := context.WithTimeout(ctx, takeBackLimit)
		defer cancel()
		if err := s.registrar.Delete(told, uuid); err != nil && !errors.Is(err, keylime.ErrNotFound) {
			errs = append(errs, fmt.Errorf("have the registrar forget %s: %w", uuid, err))
		}
	}
	return errors.Join(append(errs, s.takeOut(ctx, n))...)
}

// planJoin works out specification and plan with one more node.
func (s *supervisor) planJoin(defined spec.Node) (kept spec.Spec, next plan.Plan, err error) {
	if kept, err = roster.ReadSpec(s.dir); err != nil {
		return kept, next, err
	}
	members, name := s.memberPlan(), defined.Name
	if h, taken := members.Host(name); taken {
		return kept, next, fmt.Errorf("the lab has a host of that name already, at %s", h.Address())
	}
	kept.Nodes = kept.Nodes.With(defined)
	if err := kept.Validate(); err != nil {
		return kept, next, err
	}
	s.mu.Lock()
	moved := s.ingressAt
	s.mu.Unlock()
	if next, err = members.Join(kept, name, moved); err != nil {
		return kept, next, err
	}
	return kept, next, s.plan.Serves(next)
}

// bringUp does for one node what `up` does for all.
func (s *supervisor) bringUp(ctx context.Context, n *node) error {
	h, _ := s.planNow().Host(n.Name)
	if err := writeResolver(h, s.plan.Lab); err != nil {
		return err
	}
	host, err := hostOf(h)
	if err != nil {
		return err
	}
	if err := s.network.AddHost(ctx, host); err != nil {
		return err
	}
	if err := s.setRecord(n, n.Address); err != nil {
		return err
	}
	if err := fleet.MakePolicy(ctx, s.dir, s.configured, n.Node); err != nil {
		return err
	}
	for _, do := range []func(context.Context) error{limited(s.crypto, n.startTPM), limited(s.crypto, n.startAgent), n.enrolFirst, n.awaitAttested} {
		if err := do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// leave has verifier and registrar forget a node, and takes it out of the lab. Its TPM and its disk stay in the lab's folder, for when it comes back.
func (s *supervisor) leave(ctx context.Context, name string) (string, error) {
	n, err := s.node(name)
	if err != nil {
		return "", err
	}
	n.acting.Lock()
	defer n.acting.Unlock()
	kept, err := roster.ReadSpec(s.dir)
	if err != nil {
		return "", err
	}
	kept.Nodes = kept.Nodes.Without(name)
	if kept.Nodes.Len() == 0 {
		return "", errors.New("it is the lab's last node: `keylab down` ends the lab")
	}
	if err := kept.Validate(); err != nil {
		return "", err
	}
	next, err := s.memberPlan().Leave(name)
	if err != nil {
		return "", err
	}
	if err := s.disenrol(ctx, n); err != nil {
		return "", err
	}
	// From here on it is brought to its end, whoever asked for it is still there or not.
	ctx = context.WithoutCancel(ctx)
	if err := s.takeOut(ctx, n); err != nil {
		return "", err
	}
	if err := roster.Write(s.dir, kept, next); err != nil {
		return "", err
	}
	return fmt.Sprintf("it left the lab: verifier and registrar have forgotten it, and nothing of it runs; `keylab node add %s` brings it back with the TPM that it had", name), nil
}

// disenrol has verifier and registrar forget a node under all of its UUIDs, but those that another node has by a copy of its TPM.
func (s *supervisor) disenrol(ctx context.Context, n *node) error {
	if uuid, _ := n.identityNow(); uuid == "" || s.twin(n) {
		return nil
	}
	return machines{s}.Forget(ctx, n)
}

// twin tells whether another node has the UUID of this one.
func (s *supervisor) twin(n *node) bool {
	uuid, _ := n.identityNow()
	return slices.ContainsFunc(s.allNodes(), func(other *node) bool {
		same, _ := other.identityNow()
		return other != n && same == uuid
	})
}

// takeOut ends all of a node that runs, and takes its names away. It goes on after a failure.
func (s *supervisor) takeOut(ctx context.Context, n *node) error {
	errs := []error{n.end(ctx)}
	n.withdraw()
	errs = append(errs, s.setRecord(n, netip.Addr{}))
	if s.network.Host(n.Name) != nil {
		errs = append(errs, s.network.RemoveHost(n.Name))
	}
	errs = append(errs, os.RemoveAll(sandbox.HostDir(n.Name)))
	next, err := s.memberPlan().Leave(n.Name)
	s.setMembers(slices.DeleteFunc(slices.Clone(s.allNodes()), func(other *node) bool { return other == n }), next)
	return errors.Join(append(errs, err)...)
}

// end ends the node's agent and its TPM, and empties its memory.
func (n *node) end(ctx context.Context) error {
	err := errors.Join(n.stopAgent(ctx), n.stopTPM(ctx), n.unmountSecure())
	n.mu.Lock()
	defer n.mu.Unlock()
	n.agent, n.gone = nil, true
	return err
}

// endJoined ends the nodes that the plan of `up` had no step for, and so no undoing.
func (s *supervisor) endJoined(ctx context.Context) error {
	var all errgroup.Group
	all.SetLimit(undoParallel)
	for _, n := range s.allNodes() {
		if p, planned := s.plan.Node(n.Name); planned && p.Number == n.Number {
			continue
		}
		all.Go(func() error { return n.end(ctx) })
	}
	return all.Wait()
}

// setRecord has the DNS servers know a node's host name by this address; the zero Addr: not at all.
func (s *supervisor) setRecord(n *node, a netip.Addr) error {
	s.mu.Lock()
	servers := s.dns
	s.mu.Unlock()
	var errs []error
	for _, d := range servers {
		errs = append(errs, d.SetRecord(s.plan.HostName(n.Name), a))
	}
	return errors.Join(errs...)
}

func (s *supervisor) setMembers(nodes []*node, p plan.Plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nodes, s.members = nodes, p
}

// holdAll has several nodes to oneself, and gives back what releases them.
func (s *supervisor) holdAll(names []string) (release func(), err error) {
	var held []func()
	release = func() {
		for _, r := range held {
			r()
		}
	}
	names = slices.Clone(names)
	slices.Sort(names) // so that nobody waits for the other
	for _, name := range slices.Compact(names) {
		_, r, err := s.hold(name)
		if err != nil {
			release()
			return nil, err
		}
		held = append(held, r)
	}
	return release, nil
}

// hold has a node to oneself: what is done to it comes one after the other.
func (s *supervisor) hold(name string) (*node, func(), error) {
	n, err := s.node(name)
	if err != nil {
		return nil, nil, err
	}
	n.acting.Lock()
	n.mu.Lock()
	gone := n.gone
	n.mu.Unlock()
	if gone { // meanwhile
		n.acting.Unlock()
		_, err := s.node(name)
		if err == nil {
			err = fmt.Errorf("node %s has left the lab, and another one of that name has joined", name)
		}
		return nil, nil, err
	}
	return n, n.acting.Unlock, nil
}
