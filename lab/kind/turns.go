package kind

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"

	"keylab.dev/keylab/internal/atomicfile"
)

// Containers enter a network one after the other. Docker counts a network's endpoints, and two that come at the same moment may count as three (seen with 20.10):
// then the network can never be removed ("has active endpoints", though there is none) before the daemon is started again.
//
// The turn is a file that is locked, since the docker commands by which kind starts its nodes take it too.

// turnLock is the name of that file, among the lab's locks.
const turnLock = ".network"

// takeTurn waits until no other container is entering one of the lab's networks.
func (l *Lab) takeTurn(ctx context.Context) (release func(), err error) {
	dir, err := l.locksDir()
	if err != nil {
		return nil, err
	}
	return lockFile(ctx, filepath.Join(dir, turnLock))
}

// startContainer starts a container that was made, or was stopped, in its turn.
func (l *Lab) startContainer(ctx context.Context, id string) error {
	release, err := l.takeTurn(ctx)
	if err != nil {
		return err
	}
	defer release()
	return l.startAlone(ctx, id)
}

// startAlone starts a container that is in no network: its turn is at any time.
func (l *Lab) startAlone(ctx context.Context, id string) error {
	return l.docker.ContainerStart(ctx, id, container.StartOptions{})
}

// enterNetwork gives a container one more place, in one of the plan's networks, in its turn.
func (l *Lab) enterNetwork(ctx context.Context, name, id string, as *network.EndpointSettings) error {
	release, err := l.takeTurn(ctx)
	if err != nil {
		return err
	}
	defer release()
	return l.docker.NetworkConnect(ctx, l.resource(name), id, as)
}

// dockerInTurn stands before the docker command: %[1]s is the command, %[2]s the lock's file, %[3]d the process for which it works. Whoever has waited
// until that process was gone, killed perhaps, starts nothing any more: it would come after whatever takes the lab away.
const dockerInTurn = `#!/bin/sh
if [ "$1" = run ] && command -v flock >/dev/null; then
  exec flock %[2]s sh -c 'kill -0 %[3]d && exec "$0" "$@"' %[1]s "$@"
fi
exec %[1]s "$@"
`

// kindInTurn has the docker commands which this process starts wait for their turn, until restore is called. kind starts the containers of all nodes at
// once, and nothing of that can be set; it finds the docker command by PATH.
func (l *Lab) kindInTurn() (restore func() error, err error) {
	docker, err := exec.LookPath("docker")
	if err != nil {
		return nil, fmt.Errorf("find the docker command: %w", err)
	}
	locks, err := l.locksDir()
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(l.dir.Path, "bin")
	script := fmt.Sprintf(dockerInTurn, shellWord(docker), shellWord(filepath.Join(locks, turnLock)), os.Getpid())
	if err := errors.Join(os.MkdirAll(bin, 0o700), atomicfile.Write(filepath.Join(bin, "docker"), []byte(script), 0o700)); err != nil {
		return nil, fmt.Errorf("write the command by which kind starts nodes: %w", err)
	}
	path := os.Getenv("PATH")
	if err := os.Setenv("PATH", bin+string(filepath.ListSeparator)+path); err != nil {
		return nil, err
	}
	return func() error { return os.Setenv("PATH", path) }, nil
}

// shellWord is text as one word of a shell.
func shellWord(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
