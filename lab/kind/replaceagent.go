package kind

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/roster"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/manifests"
)

// changeAgent puts another agent on a node, which specification and plan in the lab's folder remember: nobody else may change them meanwhile.
func (l *Lab) changeAgent(ctx context.Context, a control.Action) (string, error) {
	alone, err := l.changeAlone(ctx)
	if err != nil {
		return "", err
	}
	defer alone()
	if err := l.mustBeUp(); err != nil { // it may have been taken down meanwhile
		return "", err
	}
	return fleet.Act(ctx, machines{l}, a)
}

// ReplaceAgent implements fleet.AgentReplacer. The new agent's image is on the node before anything is changed.
func (m machines) ReplaceAgent(ctx context.Context, n plan.Node, name string, kind spec.AgentKind, path string) error {
	l, before := m.l, m.l.planned
	kept, next, err := roster.WithAgent(l.dir, before, before, name, kind, path)
	if err != nil {
		return err
	}
	planned, _ := next.Node(name)
	if err := fleet.Runnable(planned); err != nil {
		return err
	}
	if err := l.agentImages(ctx, planned); err != nil {
		return err
	}
	if err := l.loadIntoWorker(ctx, planned); err != nil {
		return err
	}
	l.planned = next
	refused := m.changeSet(ctx, planned)
	err = refused
	if errors.Is(refused, fleet.ErrNotRegistered) {
		err = nil
	}
	if err == nil {
		err = roster.Write(l.dir, kept, next)
	}
	if err == nil {
		return refused
	}
	l.planned = before
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		err = errors.Join(cause, err)
	}
	ctx, cancel := fleet.Limited(context.WithoutCancel(ctx))
	defer cancel()
	if back := m.changeSet(ctx, n); back != nil {
		return errors.Join(err, fmt.Errorf("start the agent again that %s had: %w", n.Name, back))
	}
	return fmt.Errorf("it runs the agent again that it had, for the other one did not start: %w", err)
}

// changeSet has the DaemonSet of a node's agent, as the lab's plan has it now, run its pod in place of the one that there is, and removes sets that no node needs any
// more.
func (m machines) changeSet(ctx context.Context, n plan.Node) error {
	l := m.l
	var old types.UID
	if pod, err := l.agentPod(ctx, n); err == nil {
		old = pod.UID
	}
	if err := l.applyAgents(ctx); err != nil {
		return err
	}
	set := l.workerLabels(n)[manifests.LabelAgents]
	if err := l.labelNode(ctx, n, manifests.LabelAgents, fmt.Sprintf("%q", set)); err != nil {
		return err
	}
	if err := l.withdrawAgents(ctx); err != nil {
		return err
	}
	if err := l.admitAgent(ctx, n); err != nil {
		return err
	}
	if err := l.endPod(ctx, n, old); err != nil {
		return err
	}
	err := fleet.Await(ctx, "the other agent's pod on "+n.Name, func(ctx context.Context) (string, error) {
		pod, err := l.agentPod(ctx, n)
		if err == nil && (pod.UID == old || pod.Labels[manifests.LabelAgents] != set) {
			return "there is still the one from before", nil
		}
		return "", err
	})
	if err != nil {
		return err
	}
	return m.awaitRegistered(ctx, n)
}

// endPod has a node's agent end at once, if it is still that one.
func (l *Lab) endPod(ctx context.Context, n plan.Node, id types.UID) error {
	pod, err := l.agentPod(ctx, n)
	if err != nil || pod.UID != id {
		return nil // it has ended already
	}
	return l.deletePod(ctx, *pod)
}
