package keylime

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// Stdio is what a program has for standard input, output and error; nil stands for the null device.
type Stdio struct{ In, Out, Err *os.File }

// Process is a program that was started. It leads a process group: see [SignalGroup].
type Process interface {
	Pid() int
	Wait() error // until it has ended; nil is exit status 0. To be called once
}

// StartFunc starts a command, wherever it is to run. The files stay the caller's, to be closed once it returns.
type StartFunc func(Command, Stdio) (Process, error)

// StartCmd starts a command as a child of this process.
func StartCmd(cmd *exec.Cmd, std Stdio) (Process, error) {
	if std.In != nil {
		cmd.Stdin = std.In
	}
	if std.Out != nil {
		cmd.Stdout = std.Out
	}
	if std.Err != nil {
		cmd.Stderr = std.Err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return child{cmd}, nil
}

type child struct{ cmd *exec.Cmd }

func (c child) Pid() int    { return c.cmd.Process.Pid }
func (c child) Wait() error { return c.cmd.Wait() }

// SignalGroup sends a signal to the process group that a process leads ([Process], or one from [Command.Exec]). A service has to be stopped this way: its
// main process ignores SIGTERM and ends when its workers have ended. [os.ErrProcessDone] says that there is no such group any more.
func SignalGroup(pid int, sig syscall.Signal) error {
	if err := syscall.Kill(-pid, sig); err != nil {
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return fmt.Errorf("send %s to process group %d: %w", sig, pid, err)
	}
	return nil
}
