package netlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// threadNetNS names the calling thread's network namespace. It must not be
// /proc/self: that is the thread group leader's view, and a goroutine locked
// in another namespace may be running there.
const threadNetNS = "/proc/thread-self/ns/net"

// ErrClosed is returned by operations on a Namespace, Lab or Router after its Close.
var ErrClosed = errors.New("already closed")

// Namespace is one Linux network namespace (network_namespaces(7)), held open
// by a file descriptor and, if made by [New], by a bind mount that other
// programs can use (`ip -n`, `nsenter --net=`). All methods may be called from
// many goroutines at once.
type Namespace struct {
	name    string
	path    string
	bind    bool // Close must undo the bind mount
	current bool // this process is in it: nothing to enter

	mu   sync.Mutex // guards file itself, not its use
	file *os.File   // nil once closed
}

// New creates a network namespace and bind-mounts it at dir/name; dir is made
// if absent. The loopback link is up, IPv6 is off (a kernel without IPv6 is
// fine), forwarding and reverse-path filtering are off whatever the machine's
// own settings, and ARP is answered only for addresses of the asked link.
//
// The caller needs CAP_SYS_ADMIN in the user namespace that owns its mount
// namespace: root has it, and a normal user has it inside a user namespace of
// its own. On failure nothing is left behind.
func New(ctx context.Context, dir, name string) (*Namespace, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, context.Cause(ctx))
	}
	if err := checkNamespaceName(name); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("namespace %s: make its folder: %w", name, err)
	}
	path := filepath.Join(dir, name)
	mountPoint, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY|unix.O_CLOEXEC, 0o444)
	if err != nil {
		return nil, fmt.Errorf("namespace %s: make its mount point (does another lab use %s?): %w", name, dir, err)
	}
	mountPoint.Close()

	var file *os.File
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("create it (needs CAP_SYS_ADMIN, or a user namespace): %w", err)
		}
		if err := unix.Mount(threadNetNS, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind-mount it at %s (needs a mount namespace of one's own): %w", path, err)
		}
		f, err := os.Open(threadNetNS)
		if err != nil {
			return errors.Join(err, unmountAndRemove(path))
		}
		if err := prepareNamespace(); err != nil {
			f.Close()
			return errors.Join(err, unmountAndRemove(path))
		}
		file = f
		return nil
	})
	if err != nil {
		os.Remove(path) // the mount point is there unless unmountAndRemove took it
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	return &Namespace{name: name, path: path, bind: true, file: file}, nil
}

// Open opens the namespace bound at path (or a /proc/PID/ns/net); its name is
// the last element. Close then only lets go of it: the mount stays.
func Open(path string) (*Namespace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("namespace: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &fs); err != nil || fs.Type != unix.NSFS_MAGIC {
		file.Close()
		return nil, fmt.Errorf("namespace: %s is no namespace (is its bind mount gone?): %w", path, errors.Join(err, unix.EINVAL))
	}
	return &Namespace{name: filepath.Base(path), path: path, file: file}, nil
}

// Current is the namespace that this process is in. Nothing is entered, so that it
// needs no privilege by itself.
func Current() *Namespace {
	return &Namespace{name: "own", path: "/proc/self/ns/net", current: true}
}

// Name is the last element of the path that the namespace is bound at.
func (n *Namespace) Name() string { return n.name }

// Path is where the namespace is bound, in this process's mount namespace.
func (n *Namespace) Path() string { return n.path }

// Close undoes the bind mount, if New made it, and lets go of the namespace.
// The kernel ends the namespace and its links when no process, socket or open
// file uses it any more. Closing twice returns nil.
func (n *Namespace) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.file == nil {
		return nil
	}
	n.file.Close()
	n.file = nil
	if n.bind {
		if err := unmountAndRemove(n.path); err != nil {
			return fmt.Errorf("namespace %s: %w", n.name, err)
		}
	}
	return nil
}

// Do runs f on an operating-system thread that is in the namespace, and
// returns f's error. Sockets that f makes and processes that f starts belong
// to the namespace for good. Goroutines that f starts do not: they run
// elsewhere. f runs in a goroutine of its own, so it must not call
// testing.T.FailNow. A thread that cannot be brought back is discarded.
func (n *Namespace) Do(f func() error) error {
	if n.current {
		return f()
	}
	err := onThread(func() error {
		err := n.withFD(func(fd int) error {
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter it (needs CAP_SYS_ADMIN): %w", err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		return f()
	})
	if err != nil {
		return fmt.Errorf("namespace %s: %w", n.name, err)
	}
	return nil
}

// Start starts cmd inside the namespace: only its network differs from the
// caller's. Do not set cmd.SysProcAttr.Pdeathsig: it follows the starting
// thread, which may end before the process that it belongs to.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr != nil && cmd.SysProcAttr.Pdeathsig != 0 {
		return fmt.Errorf("namespace %s: start %s: Pdeathsig follows a thread that may end at any time; leave it unset", n.name, cmd.Path)
	}
	return n.Do(cmd.Start)
}

// withFD lends the namespace's file descriptor to f. A Close meanwhile does not
// wait for f, nor does it pull the descriptor from under it.
func (n *Namespace) withFD(f func(fd int) error) error {
	n.mu.Lock()
	file := n.file
	n.mu.Unlock()
	if file == nil {
		return ErrClosed
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = f(int(fd)) }); err != nil {
		return errors.Join(ErrClosed, err)
	}
	return result
}

// handle opens a netlink socket in the namespace; the caller closes it.
func (n *Namespace) handle() (*netlink.Handle, error) {
	var h *netlink.Handle
	err := n.Do(func() error {
		var err error
		h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	return h, nil
}

// onThread runs f, which may change its thread's network namespace, in a
// goroutine locked to a thread, and brings the thread back home. A thread that
// cannot be brought back is discarded. Only then: Go cannot end the main thread,
// and whatever reads /proc/self or /proc/net would see the namespace it is stuck in.
func onThread(f func() error) error {
	err := errors.New("the function ended its goroutine")
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		home, openErr := os.Open(threadNetNS)
		if openErr != nil {
			runtime.UnlockOSThread()
			err = openErr
			return
		}
		defer home.Close()
		defer func() {
			if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
				runtime.UnlockOSThread()
			}
		}()
		err = f()
	}()
	<-done
	return err
}

// namespaceSysctls are set in every namespace, since new namespaces copy the
// machine's own IPv4 settings (a Docker host forwards, for one). ARP that is
// answered only on the link that holds the address keeps the proof of
// separation honest on hosts with several links.
var namespaceSysctls = []struct{ key, value string }{
	{"ipv4/ip_forward", "0"}, // first: it resets the others
	{"ipv4/conf/all/rp_filter", "0"},
	{"ipv4/conf/default/rp_filter", "0"},
	{"ipv4/conf/all/proxy_arp", "0"},
	{"ipv4/conf/default/proxy_arp", "0"},
	{"ipv4/conf/all/arp_ignore", "1"},
	{"ipv4/conf/all/send_redirects", "0"},
	{"ipv4/conf/default/send_redirects", "0"},
	{"ipv6/conf/all/disable_ipv6", "1"},
	{"ipv6/conf/default/disable_ipv6", "1"},
}

// prepareNamespace sets up the calling thread's fresh network namespace.
func prepareNamespace() error {
	for _, s := range namespaceSysctls {
		if err := writeSysctl(s.key, s.value); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	defer h.Close()
	// The loopback link is number 1 in every namespace.
	if err := h.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: 1}}); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// writeSysctl sets net/KEY in the calling thread's network namespace.
func writeSysctl(key, value string) error {
	path := "/proc/sys/net/" + key
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // never created: absence means that the kernel lacks it
	if err != nil {
		return fmt.Errorf("sysctl: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("sysctl: set %s to %s: %w", path, value, err)
	}
	return nil
}

func unmountAndRemove(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func checkNamespaceName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/ \t\n\x00") || len(name) > 200 {
		return fmt.Errorf("namespace name %q: want 1 to 200 characters without spaces or slashes", name)
	}
	return nil
}
