package rotate

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
)

// overlap takes one node after the other, while both CAs are trusted.
func (r *rotation) overlap(ctx context.Context) error {
	if err := r.introduce(ctx); err != nil {
		return err
	}
	first := true
	for _, n := range r.pending() {
		if !first && !r.options.DryRun {
			if err := pause(ctx, r.options.Pause); err != nil {
				return err
			}
		}
		first = false
		if err := r.bringOver(ctx, n); err != nil {
			return err
		}
	}
	if err := r.expel(ctx); err != nil {
		return err
	}
	if len(r.failed) > 0 {
		return nil // the old CA stays trusted: who is not over yet could not be enrolled again
	}
	return r.distrustOld(ctx)
}

// atOnce changes the trust, and then brings all nodes over at the same time. Each stays attested until its turn to be forgotten comes.
func (r *rotation) atOnce(ctx context.Context) error {
	if err := r.introduce(ctx); err != nil {
		return err
	}
	if err := r.distrustOld(ctx); err != nil {
		return err
	}
	if err := r.expel(ctx); err != nil {
		return err
	}
	if err := r.each(ctx, r.pending(), r.issue); err != nil {
		return err
	}
	return r.each(ctx, r.pending(), r.enrol)
}

// emergency trusts nobody first, and then builds the trust up again.
func (r *rotation) emergency(ctx context.Context) error {
	if err := r.distrustOld(ctx); err != nil {
		return err
	}
	if err := r.lookWhoIsTrusted(ctx); err != nil {
		return err
	}
	if err := r.expel(ctx); err != nil {
		return err
	}
	if err := r.each(ctx, r.pending(), r.forget); err != nil {
		return err
	}
	if err := r.introduce(ctx); err != nil {
		return err
	}
	if err := r.each(ctx, r.pending(), r.issue); err != nil {
		return err
	}
	return r.each(ctx, r.pending(), r.enrol)
}

// pending are the nodes that are to be brought over, and have not failed.
func (r *rotation) pending() []*node {
	var list []*node
	for _, n := range r.nodes {
		if n.leave == "" && !n.over() && !r.hasFailed(n) {
			list = append(list, n)
		}
	}
	return list
}

func (r *rotation) hasFailed(n *node) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed[n.name]
}

// each does something with several nodes at once. Only the end of ctx stops it. The runbook has the nodes in their own order: what one writes into a file,
// another may use.
func (r *rotation) each(ctx context.Context, nodes []*node, do func(context.Context, *node) error) error {
	var g errgroup.Group
	g.SetLimit(r.parallel())
	if r.options.DryRun {
		g.SetLimit(1)
	}
	r.held = map[string][]Command{}
	for _, n := range nodes {
		g.Go(func() error { return do(ctx, n) })
	}
	err := g.Wait()
	held := r.held
	r.held = nil
	for _, n := range nodes {
		for _, c := range held[n.name] {
			r.note(c)
		}
	}
	return err
}

// note adds a command to the runbook. The caller holds mu, or nobody else is at work.
func (r *rotation) note(c Command) {
	if r.held != nil {
		r.held[c.Node] = append(r.held[c.Node], c)
		return
	}
	c.Number = len(r.result.Commands) + 1
	r.result.Commands = append(r.result.Commands, c)
	if r.options.OnCommand != nil {
		r.options.OnCommand(c)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// introduce makes the new CA, and has it trusted and active. What is so already is passed over.
func (r *rotation) introduce(ctx context.Context) error {
	name := r.target.Name
	if !r.made {
		order := control.EKOrder{Kind: control.EKNewCA, CA: name, Algorithm: r.options.Algorithm}
		if err := r.order(ctx, r.book.newCA(), order); err != nil {
			return err
		}
	}
	if !r.target.Trusted() {
		if err := r.order(ctx, r.book.trust(), control.EKOrder{Kind: control.EKTrust, CA: name}); err != nil {
			return err
		}
	}
	if !r.target.Active {
		if err := r.order(ctx, r.book.activate(), control.EKOrder{Kind: control.EKActivate, CA: name}); err != nil {
			return err
		}
	}
	if r.options.DryRun {
		return nil
	}
	return r.set.MarkUnproved(name)
}

// distrustOld takes every other CA of the lab out of the store.
func (r *rotation) distrustOld(ctx context.Context) error {
	for _, ca := range r.old {
		if !ca.Trusted() {
			continue
		}
		if err := r.order(ctx, r.book.distrust(ca.Name), control.EKOrder{Kind: control.EKDistrust, CA: ca.Name}); err != nil {
			return err
		}
	}
	return nil
}

// lookWhoIsTrusted waits until each node was attested once more, although nobody vouches for it: that a CA is gone moves no node.
func (r *rotation) lookWhoIsTrusted(ctx context.Context) error {
	limit := 10*time.Duration(r.plan.Keylime.QuoteInterval) + 5*time.Second
	return r.do(ctx, r.book.look(), func(ctx context.Context) (string, error) {
		wait, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		r.result.StillTrusted = r.watch.attestedAgain(wait)
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if len(r.result.StillTrusted) == 0 {
			return "the verifier attested no node again", nil
		}
		return "the verifier has attested again, although no CA of the tpm_cert_store vouches for them: " + strings.Join(r.result.StillTrusted, ", "), nil
	})
}

// expel has verifier and registrar forget the nodes that must not be trusted.
func (r *rotation) expel(ctx context.Context) error {
	for _, n := range r.nodes {
		if n.expel {
			if err := r.forget(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *rotation) bringOver(ctx context.Context, n *node) error {
	if err := r.issue(ctx, n); err != nil {
		return err
	}
	return r.enrol(ctx, n)
}

// issue puts the new certificate into a node's TPM, if it has not got it.
func (r *rotation) issue(ctx context.Context, n *node) error {
	if n.onTarget || r.hasFailed(n) {
		return nil
	}
	order := control.EKOrder{Kind: control.EKIssue, Node: n.name, CA: r.target.Name, Supersede: true}
	err := r.nodeStep(ctx, n, r.book.issue(n), func(ctx context.Context) (string, error) {
		done, err := r.lab.EK(ctx, order)
		return done.Text, err
	})
	n.onTarget, n.registered = err == nil && !r.hasFailed(n), false
	return err
}

// forget has verifier and registrar forget a node.
func (r *rotation) forget(ctx context.Context, n *node) error {
	n.registered, n.attested = false, false
	return r.nodeStep(ctx, n, r.book.forget(n), func(ctx context.Context) (string, error) {
		_, err := r.lab.Act(ctx, control.Action{Kind: control.ActionForget, Node: n.name})
		return "verifier and registrar know nothing of it any more", err
	})
}

// enrol has a node registered with its new certificate, and enrolled; it is forgotten first where it is known with another one.
func (r *rotation) enrol(ctx context.Context, n *node) error {
	if r.hasFailed(n) {
		return nil
	}
	if !n.registered {
		if r.options.Strategy != Emergency { // which has had it forgotten
			if err := r.forget(ctx, n); err != nil || r.hasFailed(n) {
				return err
			}
		}
		err := r.nodeStep(ctx, n, r.book.restart(n), func(ctx context.Context) (string, error) {
			return r.lab.Act(ctx, control.Action{Kind: control.ActionRestartAgent, Node: n.name})
		})
		if err != nil || r.hasFailed(n) {
			return err
		}
	}
	err := r.nodeStep(ctx, n, r.book.enrol(n), func(ctx context.Context) (string, error) {
		return r.lab.Act(ctx, control.Action{Kind: control.ActionEnrol, Node: n.name})
	})
	n.registered, n.attested = true, err == nil && !r.hasFailed(n)
	return err
}

// order carries out one that is about CAs: without it the rotation cannot go on.
func (r *rotation) order(ctx context.Context, c Command, o control.EKOrder) error {
	return r.do(ctx, c, func(ctx context.Context) (string, error) {
		done, err := r.lab.EK(ctx, o)
		return done.Text, err
	})
}

// nodeStep carries out a step of one node. When it fails, that node is not brought over, and the rotation goes on.
func (r *rotation) nodeStep(ctx context.Context, n *node, c Command, do func(context.Context) (string, error)) error {
	err := r.do(ctx, c, do)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	refusal := r.refusal(ctx, n, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed[n.name] = true
	if refusal != nil {
		r.result.Refused = append(r.result.Refused, *refusal)
	}
	return nil
}

// refusal tells who refused a node; nil: nobody did.
func (r *rotation) refusal(ctx context.Context, n *node, err error) *Refusal {
	status, statusErr := r.lab.Status(ctx)
	if statusErr == nil {
		for _, s := range status.Nodes {
			if s.Name == n.name && s.State == fleet.StateRefused {
				return &Refusal{Node: n.name, By: "tenant", Message: s.Detail}
			}
		}
	}
	if strings.Contains(err.Error(), "403") {
		return &Refusal{Node: n.name, By: "registrar", Message: err.Error()}
	}
	return nil
}

// do carries out one command of the runbook and notes what came of it; in a dry run it only notes the command.
func (r *rotation) do(ctx context.Context, c Command, do func(context.Context) (string, error)) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	var err error
	c.Status = Planned
	if !r.options.DryRun {
		c.At = time.Since(r.started)
		c.Did, err = do(ctx)
		c.Duration, c.Status = time.Since(r.started)-c.At, Done
		if err != nil {
			c.Status, c.Error = Failed, err.Error()
			if ctx.Err() != nil {
				c.Error = fmt.Sprintf("interrupted: %v", context.Cause(ctx))
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(c)
	if err != nil && c.Node == "" {
		return fmt.Errorf("%s: %w", c.What, err)
	}
	return err
}
