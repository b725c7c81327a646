// Package nstest runs a package's tests in namespaces of their own, so that they need no root and touch nothing of the machine:
//
//	func TestMain(m *testing.M) {
//		nstest.Main(m, nstest.Options{})
//	}
package nstest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// envInside marks the copy of the test program that runs in the namespaces.
const envInside = "KEYLAB_NSTEST_INSIDE"

// EnvUserNamespace, if it is set, gives root a user namespace, too, as a normal user has one.
const EnvUserNamespace = "KEYLAB_TEST_USERNS"

// Options say what the tests get besides a network namespace whose loopback is up.
type Options struct {
	// Mounts gives them a mount namespace, with a /run that nobody else sees.
	Mounts bool
}

// Main runs the tests of a package in a copy of the test program. It does not return.
func Main(m *testing.M, o Options) {
	if os.Getenv(envInside) == "" {
		os.Exit(runInside(o))
	}
	os.Unsetenv(envInside) // programs that the tests start are none of this
	err := loopbackUp()
	if err == nil && o.Mounts {
		err = PrivateRun()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "prepare the tests' namespaces:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// PrivateRun gives the mount namespace that this process is in a /run of its own.
func PrivateRun() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")
}

func runInside(o Options) int {
	runtime.LockOSThread() // Pdeathsig follows the thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), envInside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if o.Mounts {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWNS
	}
	if os.Geteuid() != 0 || os.Getenv(EnvUserNamespace) != "" {
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
