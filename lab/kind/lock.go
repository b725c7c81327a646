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
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
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

// holdNodes has nodes to oneself: what is done to them comes one after the other, also if several commands ask for it. What
// others have learnt of them meanwhile is known then.
func (l *Lab) holdNodes(ctx context.Context, names ...string) (release func(), err error) {
	var held []func()
	release = func() {
		for _, r := range held {
			r()
		}
	}
	names = slices.Clone(names)
	slices.Sort(names) // so that no two wait for each other
	dir := filepath.Join(l.dir.Path, "locks")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the nodes' locks: %w", err)
	}
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

// readAgain makes known what other processes have learnt of the lab.
func (l *Lab) readAgain() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, err := readFacts(l.dir)
	if err != nil {
		return err
	}
	l.facts = f
	return nil
}
