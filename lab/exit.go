package lab

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is another process, held by a pidfd (pidfd_open(2)): unlike its number, that never comes to mean another.
type process struct{ fd int }

// holdSandbox holds the first process of the sandbox whose supervisor is given. The kernel lets that process end only
// after every other one in the sandbox is gone (pid_namespaces(7)).
func holdSandbox(supervisor int) (*process, error) {
	pid, err := parent(supervisor)
	if err != nil {
		return nil, fmt.Errorf("find the lab's first process: %w", err)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("watch the lab's first process, %d: %w", pid, err)
	}
	return &process{fd}, nil
}

// Wait returns when the process has ended.
func (p *process) Wait(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		fds := []unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 100) // ms, so that the context is heard
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("wait for a process to end: %w", err)
		}
		if n > 0 {
			return nil
		}
	}
}

func (p *process) Kill() error { return unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0) }

func (p *process) Close() { unix.Close(p.fd) }

// parent is the parent of a process (proc_pid_status(5), PPid).
func parent(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "PPid:"); ok {
			return strconv.Atoi(strings.TrimSpace(rest))
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no PPid", pid)
}
