package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// HostDir is the folder of one lab host's files: its resolv.conf, which every process of that host sees as
// /etc/resolv.conf.
func HostDir(host string) string { return filepath.Join(RuntimeDir, "hosts", host) }

// On makes a command run as a process of a lab host: in its network namespace, with its resolv.conf and host name. It
// is for the supervisor, which is inside the sandbox. The process dies with the sandbox at the latest.
func On(cmd *exec.Cmd, lab, host string) {
	cmd.Args = append([]string{filepath.Base(cmd.Args[0]), Marker, roleRun, lab, host, "--"}, cmd.Args...)
	cmd.Path, cmd.Err = "/proc/self/exe", nil
}

// Namespaces are new namespaces like those that On gives a process of a lab host, to be entered with setns(2) by a process that is in the sandbox already.
func Namespaces(lab, host string) (files []*os.File, err error) {
	// A process is made on the host, and through once it echoes what it is told.
	holder := exec.Command("cat")
	var failure strings.Builder
	holder.Stderr = &failure
	On(holder, lab, host)
	in, err := holder.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := holder.Start(); err != nil {
		return nil, fmt.Errorf("enter host %s: %w", host, err)
	}
	defer func() {
		in.Close()
		if waitErr := holder.Wait(); err != nil {
			err = fmt.Errorf("enter host %s: %w", host, errors.Join(err, waitErr, errors.New(strings.TrimSpace(failure.String()))))
			for _, f := range files {
				f.Close()
			}
			files = nil
		}
	}()
	if _, err := io.WriteString(in, "\n"); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		return nil, err
	}
	for _, kind := range []string{"net", "uts", "mnt"} { // the mounts last: they change what is found in /proc
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", holder.Process.Pid, kind))
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

// EnterCommand makes a command like those of On, for a caller outside the sandbox: it enters the namespaces of the sandbox in which process
// pid (the supervisor, in the caller's PID namespace) lives. The command gets the caller's terminal.
func EnterCommand(ctx context.Context, lab string, pid int, host string, argv ...string) (*exec.Cmd, error) {
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return nil, fmt.Errorf("entering a lab needs nsenter, of Debian's package util-linux: %w", err)
	}
	args := []string{"--target", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--net", "--pid"}
	if NeedsUserNamespace() {
		args = append(args, "--user", "--preserve-credentials")
	}
	// Inside, this program's own path may be hidden by the lab's /run; process 1 there is the program that started the lab.
	args = append(args, "--", "/proc/1/exe", Marker, roleRun, lab, host, "--")
	return exec.CommandContext(ctx, nsenter, append(args, argv...)...), nil
}

// run becomes a process of a lab host: args are the host's name, "--" and the command.
func run(_ string, args []string) error {
	if len(args) < 3 || args[1] != "--" {
		return errors.New("run: needs HOST -- COMMAND [ARGUMENT…]")
	}
	host, argv := args[0], args[2:]
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("run %s on %s: %w", argv[0], host, err)
	}
	// setns and unshare change this thread alone; the exec at the end makes it the whole process.
	runtime.LockOSThread()
	ns, err := os.Open(filepath.Join(NamespaceDir, host))
	if err != nil {
		return fmt.Errorf("the lab has no host %q: %w", host, err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace of %s: %w", host, err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("make a mount namespace for %s: %w", host, err)
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts of %s private: %w", host, err)
	}
	if err := unix.Sethostname([]byte(host)); err != nil {
		return fmt.Errorf("set the host name %s: %w", host, err)
	}
	if err := bindResolvConf(host); err != nil {
		return err
	}
	return fmt.Errorf("execute %s on %s: %w", path, host, unix.Exec(path, argv, os.Environ()))
}

// bindResolvConf puts the host's resolver configuration over /etc/resolv.conf. Where that is a symbolic link into
// /run (systemd-resolved), whose target is hidden by the lab's own /run, the target is made first.
func bindResolvConf(host string) error {
	const target = "/etc/resolv.conf"
	source := filepath.Join(HostDir(host), "resolv.conf")
	if _, err := os.Stat(source); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if link, err := os.Readlink(target); err == nil {
		if !filepath.IsAbs(link) {
			link = filepath.Join(filepath.Dir(target), link)
		}
		if _, err := os.Stat(link); errors.Is(err, os.ErrNotExist) {
			if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
				return fmt.Errorf("resolver configuration of %s: %w", host, err)
			}
			if err := os.WriteFile(link, nil, 0o644); err != nil {
				return fmt.Errorf("resolver configuration of %s: %w", host, err)
			}
		}
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("put %s over %s: %w", source, target, err)
	}
	return nil
}
