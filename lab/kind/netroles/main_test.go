package netroles_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"keylab.dev/keylab/lab/kind/roles"
)

// insideEnv marks the copy of the test program that runs in namespaces of its own.
const insideEnv = "KEYLAB_NETROLES_TEST_INSIDE"

// TestMain runs the tests in a copy of the test program with a network and a mount namespace, and for a normal user a user namespace, of its
// own. Where the test program is started as keylab is in containers, it plays that role.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == roles.Marker {
		os.Exit(playRole())
	}
	if os.Getenv(insideEnv) == "" {
		os.Exit(runInside())
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err = errors.Join(err, privateRun()); err != nil {
		fmt.Fprintln(os.Stderr, "prepare the tests' namespaces:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// playRole is the main process of a container, as far as it can tell: it has a /run that nobody else has. It ends with the test program at the
// latest, which holds the other end of its standard input.
func playRole() int {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	if err := privateRun(); err != nil {
		fmt.Fprintln(os.Stderr, "prepare the role's mount namespace:", err)
		return 1
	}
	status, _ := roles.Main(os.Args)
	return status
}

func privateRun() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")
}

func runInside() int {
	runtime.LockOSThread() // Pdeathsig follows the thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "run the tests in namespaces:", err)
		return 1
	}
	return 0
}
