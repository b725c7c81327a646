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

// Containers enter a network one after the other. Docker before 28.1 keeps a count of a network's endpoints, and two that come at the same moment may count as three
// (seen with 20.10): then the network can never be removed ("has active endpoints", though there is none) before the daemon is started again. Later ones look
// at the endpoints themselves (moby pull request 49736; libnetwork of 28.0.4 and 28.1.0 compared): there everybody starts at once.
//
// The turn is a file that is locked, since the docker commands by which kind starts its nodes take it too.

// turnLock is the name of that file, among the lab's locks.
const turnLock = ".network"

// apiEndpointsThemselves is the version of Docker's API from which on nothing is counted: that of Docker 28.1.
const apiEndpointsThemselves = "1.49"

// inTurn tells whether this Docker needs turns.
func (l *Lab) inTurn(ctx context.Context) bool {
	l.docker.NegotiateAPIVersion(ctx) // its version is known only when it has been asked for something
	return older(l.docker.ClientVersion(), apiEndpointsThemselves)
}

// takeTurn waits until no other container is entering one of the lab's networks.
func (l *Lab) takeTurn(ctx context.Context) (release func(), err error) {
	if !l.inTurn(ctx) {
		return func() {}, nil
	}
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

// dockerInTurn stands before the docker command: %[1]s is the command, %[2]s the lock's file, %[3]d the process for which it works. It makes a container at any time,
// and only starts it in its turn. Whoever has waited until that process was gone, killed perhaps, starts nothing any more: it would
// come after whatever takes the lab away.
const dockerInTurn = `#!/bin/sh
if [ "$1" != run ] || ! command -v flock >/dev/null; then
  exec %[1]s "$@"
fi
shift
for word do
  shift
  [ "$word" = --detach ] || set -- "$@" "$word"
done
made=$(%[1]s create "$@") || exit
exec flock %[2]s sh -c 'kill -0 %[3]d && exec "$0" start "$1"' %[1]s "$made"
`

// kindInTurn has the docker commands which this process starts wait for their turn, until restore is called. kind starts the containers of all nodes at
// once, and nothing of that can be set; it finds the docker command by PATH.
func (l *Lab) kindInTurn(ctx context.Context) (restore func() error, err error) {
	if !l.inTurn(ctx) {
		return func() error { return nil }, nil
	}
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
