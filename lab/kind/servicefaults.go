package kind

import (
	"context"
	"fmt"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
)

// stopSeconds is how long a service may take to end in order.
const stopSeconds = 30

func (l *Lab) serviceDown(ctx context.Context, f fault) error {
	seconds := stopSeconds
	l.closeLink(f.Component)
	if err := l.docker.ContainerStop(ctx, l.resource(f.Component), container.StopOptions{Timeout: &seconds}); err != nil {
		return fmt.Errorf("stop the %s: %w", f.Component, err)
	}
	return nil
}

func (l *Lab) serviceKilled(ctx context.Context, f fault) error {
	l.closeLink(f.Component)
	// A container that was killed on purpose is not started again by Docker.
	err := l.docker.ContainerKill(ctx, l.resource(f.Component), "KILL")
	if cerrdefs.IsConflict(err) {
		return fmt.Errorf("the %s does not run", f.Component)
	}
	if err != nil {
		return fmt.Errorf("kill the %s: %w", f.Component, err)
	}
	return nil
}

// serviceUp starts a service's container again; the database is in its volume.
func (l *Lab) serviceUp(ctx context.Context, f fault) error {
	_, command, err := l.serviceCommand(f.Component)
	if err != nil {
		return err
	}
	if err := l.startContainer(ctx, l.resource(f.Component)); err != nil {
		return fmt.Errorf("start the %s: %w", f.Component, explained(err))
	}
	return l.awaitService(ctx, f.Component, command)
}

// serviceCommand is what a service's container runs, and the image that it is made of.
func (l *Lab) serviceCommand(component string) (image string, command keylime.Command, err error) {
	configured, err := l.keylime()
	if err != nil {
		return "", command, err
	}
	if component == plan.Registrar {
		return l.images().Registrar, configured.Registrar(), nil
	}
	return l.images().Verifier, configured.Verifier(), nil
}

func (l *Lab) serviceRestart(ctx context.Context, f fault) error {
	if err := l.serviceDown(ctx, f); err != nil {
		return err
	}
	return l.serviceUp(ctx, f)
}

// restartAgent ends the agent in its pod, and waits until the kubelet has started it again and it has registered.
func (l *Lab) restartAgent(ctx context.Context, f fault) error {
	n := f.On[0]
	before, err := l.agentTask(ctx, n)
	if err != nil {
		return err
	}
	if err := l.agentTaskDo(ctx, n, "kill"); err != nil { // SIGTERM
		return err
	}
	err = fleet.Await(ctx, "the kubelet to start the agent of "+n.Name+" again", func(ctx context.Context) (string, error) {
		now, err := l.agentTask(ctx, n)
		if err == nil && now == before {
			return "Kubernetes still shows the one from before", nil
		}
		return "", err
	})
	if err != nil {
		return err
	}
	if err := l.awaitAgent(n)(ctx); err != nil {
		return err
	}
	return l.awaitRoute(ctx, n, n)
}
