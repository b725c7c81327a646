package netlab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Problem is one thing about this machine that keeps a lab from being built.
type Problem struct {
	What string // what was found
	Fix  string // what to do about it; a command where there is one
}

func (p Problem) String() string { return p.What + ": " + p.Fix }

// Available says what keeps this process from building labs, as far as that
// can be told without building one: for that, run [SelfTest] in the kind of
// process that is to hold the lab. No problems means an empty list.
func Available(ctx context.Context) []Problem {
	return available(ctx, "/proc/sys", os.Geteuid() == 0)
}

func available(ctx context.Context, sysctls string, root bool) []Problem {
	var problems []Problem
	limit := func(key string, bad int, what, fix string) {
		// Absent settings are those of other kernels or distributions.
		if v, err := readSysctl(sysctls, key); err == nil && v == bad {
			problems = append(problems, Problem{fmt.Sprintf("%s (%s = %d)", what, key, v), fix})
		}
	}
	limit("user/max_net_namespaces", 0, "network namespaces are forbidden", "sysctl -w user.max_net_namespaces=10000")
	limit("user/max_mnt_namespaces", 0, "mount namespaces are forbidden", "sysctl -w user.max_mnt_namespaces=10000")
	if !root {
		limit("user/max_user_namespaces", 0, "user namespaces are forbidden", "sysctl -w user.max_user_namespaces=10000, or run as root")
		limit("kernel/unprivileged_userns_clone", 0, "user namespaces are forbidden to normal users", "sysctl -w kernel.unprivileged_userns_clone=1, or run as root")
		limit("kernel/apparmor_restrict_unprivileged_userns", 1, "AppArmor takes all rights away inside user namespaces of normal users",
			"sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile with `userns,` for this program, or run as root")
	}
	if len(problems) > 0 {
		return problems // the trial would only repeat the same
	}
	if err := tryNamespaces(ctx, root); err != nil {
		problems = append(problems, Problem{
			"the kernel does not let this process make namespaces: " + err.Error(),
			"inside a container, allow unshare and mount (for Docker: --privileged, or --cap-add=SYS_ADMIN,NET_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined)",
		})
	}
	return problems
}

// tryNamespaces starts a program that ends at once in namespaces of its own.
func tryNamespaces(ctx context.Context, root bool) error {
	path, err := exec.LookPath("true")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	if !root {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w %s", cmd, err, out)
	}
	return nil
}

func readSysctl(root, key string) (int, error) {
	b, err := os.ReadFile(filepath.Join(root, key))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// SelfTest builds a small lab under dir, lets one connection through its
// router, sees another dropped, and takes the lab away. It needs what [Build]
// needs, so run it in a process with namespaces of its own. The error says
// which part the kernel refused.
func SelfTest(ctx context.Context, dir string) (err error) {
	dir, err = os.MkdirTemp(dir, "selftest-")
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	left, right := netip.MustParsePrefix("198.18.254.0/24"), netip.MustParsePrefix("198.18.255.0/24")
	client, server := netip.MustParseAddr("198.18.254.10"), netip.MustParseAddr("198.18.255.10")
	gateLeft, gateRight := netip.MustParseAddr("198.18.254.2"), netip.MustParseAddr("198.18.255.2")
	lab, err := Build(ctx, dir, Topology{
		Networks: []Network{{Name: "left", Prefix: left}, {Name: "right", Prefix: right}},
		Hosts: []Host{
			{Name: "router", Forward: true, Interfaces: []Interface{
				{Network: "left", Addresses: []netip.Addr{gateLeft}}, {Network: "right", Addresses: []netip.Addr{gateRight}}}},
			{Name: "client", Interfaces: []Interface{{Network: "left", Addresses: []netip.Addr{client}}}, Routes: []Route{DefaultRoute(gateLeft)}},
			{Name: "server", Interfaces: []Interface{{Network: "right", Addresses: []netip.Addr{server}}}, Routes: []Route{DefaultRoute(gateRight)}},
		},
	})
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	const allowed, forbidden = 443, 444
	router, err := ApplyRules(lab.Host("router"), []Rule{{Name: "allowed", From: left, To: right, Protocol: "tcp", Port: allowed}})
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	for _, port := range []uint16{allowed, forbidden} {
		l, err := lab.Host("server").Listen("tcp", netip.AddrPortFrom(server, port).String())
		if err != nil {
			return fmt.Errorf("self-test: %w", err)
		}
		defer l.Close() // the kernel accepts by itself; nobody needs to
	}
	if err := awaitOpen(ctx, lab.Host("client"), netip.AddrPortFrom(server, allowed)); err != nil {
		return fmt.Errorf("self-test: an allowed connection through the router: %w", err)
	}
	if r := ProbeTCP(ctx, lab.Host("client"), netip.AddrPortFrom(server, forbidden), 200*time.Millisecond); r.Outcome != OutcomeTimeout {
		return fmt.Errorf("self-test: a forbidden connection through the router: %v, want %s", r, OutcomeTimeout)
	}
	for name, want := range map[string]bool{"allowed": true, CounterDropped: true, CounterOpenAll: false} {
		c, err := router.Counter(name)
		if err != nil {
			return fmt.Errorf("self-test: %w", err)
		}
		if (c.Packets > 0) != want {
			return fmt.Errorf("self-test: the router's counter %q is %d", name, c.Packets)
		}
	}
	return nil
}

// awaitOpen waits until an address can be reached. On a busy machine a new link may need a moment until the router has its route
// back, and the router says so ("no route to host").
func awaitOpen(ctx context.Context, from *Namespace, to netip.AddrPort) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		r := ProbeTCP(ctx, from, to, 5*time.Second)
		switch r.Outcome {
		case OutcomeOpen:
			return nil
		case OutcomeUnreachable:
		default:
			return fmt.Errorf("%s: %w", r.Outcome, r.Err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", r.Outcome, r.Err)
		case <-tick.C:
		}
	}
}
