package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"
)

// RuntimeDir is where a lab keeps its sockets and other things that must not outlive it: on the private /run.
const RuntimeDir = "/run/keylab"

// NamespaceDir is where the network namespaces of the lab's hosts are found by name, as ip-netns(8) expects.
const NamespaceDir = "/run/netns"

// Supervisor is the work of the lab's supervisor: args and files are those of Config.
type Supervisor func(lab string, args []string, files func(n int) *os.File) error

// Roles are what a program does in a sandbox.
type Roles struct {
	Supervise Supervisor
	Test      func(context.Context) error // of Try
}

// Main answers the calls by which this program starts itself again. When args (os.Args) are such a call, it does the
// work and returns the exit status and true; a program calls it before anything else and exits if told to.
func Main(args []string, roles Roles) (status int, handled bool) {
	if len(args) < 4 || args[1] != Marker {
		return 0, false
	}
	role, lab, rest := args[2], args[3], args[4:]
	var err error
	switch role {
	case roleInit:
		status, err = initialise(lab, rest)
	case roleSupervisor:
		err = roles.Supervise(lab, rest, func(n int) *os.File { return os.NewFile(uintptr(3+n), fmt.Sprintf("inherited-%d", n)) })
	case roleTry:
		if err = prepareMounts(); err == nil {
			err = roles.Test(context.Background())
		}
	case roleRun:
		if err = run(lab, rest); errors.Is(err, exec.ErrNotFound) {
			status = 127 // as a shell says it
		}
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "keylab: %v\n", err)
		if status == 0 {
			status = 1
		}
	}
	return status, true
}

// initialise is process 1 of the sandbox: it prepares the mounts, starts the supervisor, reaps orphans, and ends with
// the supervisor.
func initialise(lab string, args []string) (int, error) {
	files, err := strconv.Atoi(args[0])
	if err != nil {
		return 1, fmt.Errorf("number of inherited files: %w", err)
	}
	if err := prepareMounts(); err != nil {
		return 1, err
	}
	cmd := self(lab, roleSupervisor, args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	for fd := 3; fd < 3+files; fd++ {
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(fd), "inherited"))
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("start the lab's supervisor: %w", err)
	}
	for _, f := range cmd.ExtraFiles {
		f.Close() // the supervisor's death must close them
	}
	go func() {
		for s := range signals {
			if s != unix.SIGHUP {
				_ = cmd.Process.Signal(s)
			}
		}
	}()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1, fmt.Errorf("wait for the lab's processes: %w", err)
		case pid == cmd.Process.Pid && ws.Exited():
			return ws.ExitStatus(), nil
		case pid == cmd.Process.Pid && ws.Signaled():
			return 128 + int(ws.Signal()), fmt.Errorf("the lab's supervisor was ended by signal %v", ws.Signal())
		}
	}
}

// prepareMounts gives the sandbox its own /proc (for its PID namespace) and /run (for sockets and namespaces), and
// lets no mount made here be seen outside.
func prepareMounts() error {
	mounts := []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"none", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"keylab", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	}
	for _, m := range mounts {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s in the lab's own mount namespace: %w", m.kind, m.target, err)
		}
	}
	for _, dir := range []string{NamespaceDir, RuntimeDir, RuntimeDir + "/tmp"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return os.Setenv("TMPDIR", RuntimeDir+"/tmp")
}
