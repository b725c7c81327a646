package kind

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// lockFile waits until nobody else, in this process or in another, has the lock that a file stands for.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	return lockFileAs(ctx, path, unix.LOCK_EX)
}

// lockFileAs is lockFile for a lock that many may have at once (unix.LOCK_SH), or one alone (unix.LOCK_EX).
func lockFileAs(ctx context.Context, path string, how int) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for the lock %s: %w", path, context.Cause(ctx)), f.Close())
		case <-tick.C:
		}
	}
}

// locksDir is the folder of the locks by which commands keep out of one another's way.
func (l *Lab) locksDir() (string, error) {
	dir := filepath.Join(l.dir.Path, "locks")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the folder of the nodes' locks: %w", err)
	}
	return dir, nil
}

// membersLock is the lock of whoever counts on it that no node joins or leaves. No node has such a name.
const membersLock = ".members"

// holdMembers waits until nobody has a node join or leave, and keeps it so. Who the nodes are is known then.
func (l *Lab) holdMembers(ctx context.Context) (release func(), err error) {
	return l.lockMembers(ctx, unix.LOCK_SH, "wait until no node joins or leaves")
}

// changeAlone has the right to have a node join or leave to oneself: nobody then does anything to the nodes, or proves anything of them.
func (l *Lab) changeAlone(ctx context.Context) (release func(), err error) {
	return l.lockMembers(ctx, unix.LOCK_EX, "wait until nothing else is done to the nodes, and nobody proves the lab")
}

func (l *Lab) lockMembers(ctx context.Context, how int, what string) (release func(), err error) {
	dir, err := l.locksDir()
	if err != nil {
		return nil, err
	}
	release, err = lockFileAs(ctx, filepath.Join(dir, membersLock), how)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if err := l.readAgain(); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// holdNodes has nodes to oneself: what is done to them comes one after the other, also if several commands ask for it. What
// others have learnt of them meanwhile is known then.
func (l *Lab) holdNodes(ctx context.Context, names ...string) (release func(), err error) {
	var held []func()
	release = func() {
		for _, r := range held {
			r()
		}
	}
	members, err := l.holdMembers(ctx)
	if err != nil {
		return nil, err
	}
	held = append(held, members)
	dir, err := l.locksDir()
	if err != nil {
		release()
		return nil, err
	}
	names = slices.Clone(names)
	slices.Sort(names) // so that no two wait for each other
	for _, name := range slices.Compact(names) {
		if _, err := l.findNode(name); err != nil {
			release()
			return nil, err
		}
		unlock, err := lockFile(ctx, filepath.Join(dir, name))
		if err != nil {
			release()
			return nil, fmt.Errorf("wait until nothing else is done to %s: %w", name, err)
		}
		held = append(held, unlock)
	}
	if err := l.readAgain(); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// readAgain makes known what other processes have learnt of the lab, and which nodes it has now.
func (l *Lab) readAgain() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, err := readPlan(l.dir)
	if err != nil {
		return err
	}
	f, err := readFacts(l.dir)
	if err != nil {
		return err
	}
	l.planned, l.facts = p, f
	return nil
}
