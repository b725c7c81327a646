package tpmrole

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// insideEnv marks the copy of the test program that runs in a network namespace of its own.
const insideEnv = "KEYLAB_TPMROLE_TEST_INSIDE"

// TestMain runs the tests in a copy of the test program with a network namespace, and for a normal user a user namespace, of its own: there
// swtpm's ports are free. Called as `PROGRAM tpm-connect SOCKET` it is what a pod's tpm2-tools start.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "tpm-connect" {
		if err := Connect(context.Background(), os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(insideEnv) == "" {
		os.Exit(runInside())
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "set lo up:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func runInside() int {
	runtime.LockOSThread() // Pdeathsig follows the thread
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "run the tests in a namespace:", err)
		return 1
	}
	return 0
}
