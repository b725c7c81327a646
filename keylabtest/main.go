package keylabtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/state"
)

// Main is the body of TestMain of a package whose tests have labs: it runs the tests, and when they have ended, it sees that no lab is left. Go ends the
// program with the tests' status when TestMain returns.
//
// A lab's processes are this test binary, started again, and Main is where it then becomes one of them, which does not return. What stands before Main
// in TestMain is carried out in all of them.
func Main(m *testing.M) {
	lab.Init()
	if len(os.Args) == 3 && os.Args[1] == reaperArg {
		if err := reap(os.Stdin, os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "keylabtest:", err)
		}
		return
	}
	began = true
	m.Run()
	if err := labs.end(); err != nil {
		fmt.Fprintln(os.Stderr, "keylabtest: look for labs that were left:", err)
	}
}

// began tells whether Main was called.
var began bool

// labs is where the labs of this test binary are.
var labs folder

// folder is a folder for labs, and the process that wipes what is in it when this one has ended.
type folder struct {
	once   sync.Once
	err    error
	reaper *exec.Cmd
	leash  io.Closer // its end is ours
}

// open makes the folder, once, and has all labs of this process be in it.
func (f *folder) open() error {
	f.once.Do(func() { f.err = f.make() })
	return f.err
}

func (f *folder) make() error {
	base := os.Getenv(state.EnvBase) // where the user wants labs; else the folder for temporary files
	if base != "" {
		if err := os.MkdirAll(base, 0o700); err != nil {
			return fmt.Errorf("make a folder for the labs: %w", err)
		}
	}
	dir, err := os.MkdirTemp(base, "keylabtest-")
	if err != nil {
		return fmt.Errorf("make a folder for the labs: %w", err)
	}
	if err := f.watch(dir); err != nil {
		return errors.Join(err, os.Remove(dir))
	}
	return os.Setenv(state.EnvBase, dir)
}

// reaperArg is the first argument of this binary as the process that wipes labs.
const reaperArg = "__keylabtest-reaper"

// watch starts the process that ends what we leave.
func (f *folder) watch(dir string) error {
	c := exec.Command("/proc/self/exe", reaperArg, dir)
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what interrupts us must not end it
	leash, err := c.StdinPipe()
	if err != nil {
		return fmt.Errorf("watch over the labs: %w", err)
	}
	// It has neither our standard output nor our standard error: go test waits until nobody holds them any more.
	if err := c.Start(); err != nil {
		return fmt.Errorf("watch over the labs: %w", err)
	}
	f.reaper, f.leash = c, leash
	return nil
}

// end has everything wiped that is left, and returns when it is.
func (f *folder) end() error {
	if f.reaper == nil {
		return nil
	}
	f.leash.Close()
	return f.reaper.Wait()
}

// reapTimeout is how long the labs of a test binary that was killed may take to end.
const reapTimeout = 5 * time.Minute

// reap waits until the other end of the leash is gone, then wipes the labs in dir and deletes it.
func reap(leash io.Reader, dir string) error {
	_, _ = io.Copy(io.Discard, leash)
	if err := os.Setenv(state.EnvBase, dir); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), reapTimeout, fmt.Errorf("not within %s", reapTimeout))
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := wipeAll(ctx)
		if err == nil {
			return os.RemoveAll(dir)
		}
		select { // one that was coming up takes itself back, and cannot be wiped meanwhile
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wipe the labs in %s: %w: %w", dir, context.Cause(ctx), err)
		}
	}
}

func wipeAll(ctx context.Context) error {
	dirs, err := state.List()
	if err != nil {
		return err
	}
	for _, d := range dirs {
		l, openErr := lab.Open(d.Lab)
		if openErr == nil {
			_, openErr = l.Wipe(ctx)
		}
		err = errors.Join(err, openErr)
	}
	return err
}
