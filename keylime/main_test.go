package keylime

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// testHost is the agents' contact address in the tests.
const testHost = "c0ffee.agents.lab.test"

const insideEnv = "KEYLAB_KEYLIME_TEST_INSIDE"

// TestMain installs Keylime where there is a network, then runs all tests in namespaces of their own: the services write to /run and
// listen on their usual ports there without disturbing anybody, need no root, and end with the tests however those end.
func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) != "" {
		if err := enterTestWorld(); err != nil {
			fmt.Fprintln(os.Stderr, "prepare namespaces:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	for _, version := range Versions() {
		start := time.Now()
		inst, err := EnsureInstalled(ctx, InstallOptions{Version: version})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Printf("Keylime %s ready in %s after %s\n", inst.Version, inst.Dir, time.Since(start).Round(time.Millisecond))
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "tests in namespaces:", err)
		os.Exit(1)
	}
}

func enterTestWorld() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	// Names resolve inside as they do in a lab; the file is what both Go and Python look at first.
	hosts := "/run/hosts"
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost "+testHost+"\n"), 0o644); err != nil {
		return err
	}
	if err := unix.Mount(hosts, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /etc/hosts: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return netlink.LinkSetUp(lo)
}

func installed(t testing.TB) *Installation {
	t.Helper()
	inst, err := EnsureInstalled(t.Context(), InstallOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return inst
}
