package kind

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
)

// skewClock makes a service's container anew, with the library that shows the service another time.
func (l *Lab) skewClock(ctx context.Context, f fault) error {
	library, err := l.faketime(ctx, f.Component)
	if err != nil {
		return err
	}
	return l.restartAt(ctx, f, fleet.SkewEnv(library, f.Duration("by")))
}

func (l *Lab) mendClock(ctx context.Context, f fault) error {
	if err := l.restartAt(ctx, f, nil); err != nil {
		return err
	}
	return l.askAgain(ctx, f, l.planned.Nodes)
}

// faketime is where a service's image has libfaketime. Official images have none.
func (l *Lab) faketime(ctx context.Context, component string) (string, error) {
	out, err := l.execOutput(ctx, l.resource(component), "sh", "-c", "ls -1 "+strings.Join(fleet.FaketimePlaces, " ")+" 2>/dev/null || true")
	if err != nil {
		return "", err
	}
	library, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
	if library == "" {
		image, _, err := l.serviceCommand(component)
		if err != nil {
			return "", err
		}
		return "", fmt.Errorf("the image of the %s, %s, has no libfaketime, which shows a program another time: images that keylab builds have it (images.source: local)", component, image)
	}
	return library, nil
}

// restartAt restarts a service with some environment more than its own.
func (l *Lab) restartAt(ctx context.Context, f fault, env []string) error {
	configured, err := l.keylime()
	if err != nil {
		return err
	}
	c, err := l.docker.ContainerInspect(ctx, l.resource(f.Component))
	if err != nil {
		return fmt.Errorf("look at the container of the %s: %w", f.Component, err)
	}
	i := slices.IndexFunc(c.Mounts, func(m container.MountPoint) bool { return m.Destination == configured.WorkDir(f.Component) })
	if i < 0 {
		return fmt.Errorf("the container of the %s has no volume at %s", f.Component, configured.WorkDir(f.Component))
	}
	if err := l.serviceDown(ctx, f); err != nil {
		return err
	}
	if err := l.remake(ctx, f.Component, c.Mounts[i].Name, env); err != nil {
		return err
	}
	to := l.planned.Keylime.Verifier
	if f.Component == plan.Registrar {
		to = l.planned.Keylime.RegistrarTLS
	}
	return l.awaitContainer(ctx, f.Component, "the "+f.Component+" to speak TLS", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, readyAttempt)
		defer cancel()
		return fleet.SpeaksTLS(ctx, l.dialFrom(plan.Tenant), to)
	})
}

// skewIn is what there is of SkewEnv in a container's environment.
func skewIn(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(e string) bool { return !strings.HasPrefix(e, "LD_PRELOAD=") && !strings.HasPrefix(e, "FAKETIME") })
}

// remake makes the container of a service that was stopped anew, on a volume that has its working folder, and with some environment more; and starts it.
func (l *Lab) remake(ctx context.Context, component, volume string, env []string) error {
	image, command, err := l.serviceCommand(component)
	if err != nil {
		return err
	}
	configured, err := l.keylime()
	if err != nil {
		return err
	}
	if err := l.docker.ContainerRemove(ctx, l.resource(component), container.RemoveOptions{}); err != nil {
		return fmt.Errorf("remove container %s: %w", l.resource(component), err)
	}
	p, err := l.keylimePartOn(volume, component, image, configured)
	if err != nil {
		return err
	}
	p.runs(command)
	p.config.Env = append(p.config.Env, env...)
	return l.start(ctx, p)
}
