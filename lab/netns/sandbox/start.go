package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// Marker is the first argument of a process that Main answers.
const Marker = "__keylab"

// The roles in which this program starts itself again: the second argument.
const (
	roleInit       = "init"
	roleSupervisor = "supervisor"
	roleRun        = "run"
	roleTry        = "try"
)

// Config says what Start starts.
type Config struct {
	Lab   string     // the lab's name; shown by ps
	Args  []string   // handed to the supervisor
	Files []*os.File // the supervisor's file descriptors 3, 4, …
	Log   *os.File   // standard output and error of init and supervisor
}

// Process is a running sandbox, as its parent sees it.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start starts the sandbox in a session of its own, so that neither a closed terminal nor its ctrl-C reaches it.
func Start(c Config) (*Process, error) {
	cmd := self(c.Lab, roleInit, append([]string{strconv.Itoa(len(c.Files))}, c.Args...)...)
	cmd.Stdout, cmd.Stderr = c.Log, c.Log
	cmd.ExtraFiles = c.Files
	cmd.Dir = "/"
	cmd.SysProcAttr = namespaces()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the lab's namespaces: %w (`keylab doctor` says what this machine lacks)", err)
	}
	p := &Process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Try makes a sandbox, runs test in it, and takes it down: whether this machine can hold a lab. What the test printed is
// returned with its error. The test itself is what Main was given.
func Try(ctx context.Context) (output string, err error) {
	cmd := self("try", roleTry, "-")
	cmd.Dir = "/"
	cmd.SysProcAttr = namespaces()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("make namespaces: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	err = cmd.Wait()
	return strings.TrimSpace(out.String()), err
}

// namespaces are those of a sandbox. A normal user gets a user namespace too, in which that user is root.
func namespaces() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	if NeedsUserNamespace() {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// NeedsUserNamespace tells whether the caller lacks the privilege to make namespaces, so that the sandbox takes a user
// namespace too.
func NeedsUserNamespace() bool { return os.Geteuid() != 0 }

// PID is the process id of the sandbox's init in the caller's PID namespace.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the sandbox has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the sandbox ended, once Done is closed: nil for a supervisor that returned nil.
func (p *Process) Err() error { return p.err }

// Kill ends the sandbox and everything in it at once.
func (p *Process) Kill() error { return p.cmd.Process.Kill() }

// self is this program once more, in a role. The path is /proc/self/exe's, since that works after the file was
// replaced or removed.
func self(lab, role string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{"keylab[" + lab + "]", Marker, role, lab}, args...)
	return cmd
}
