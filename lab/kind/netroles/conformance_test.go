package netroles_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keylab.dev/keylab/lab/kind/netroles"
	"keylab.dev/keylab/lab/kind/roles"
	"keylab.dev/keylab/netlab"
	"keylab.dev/keylab/netlab/dnstest"
	"keylab.dev/keylab/netlab/routertest"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

func withPatience() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

// buildLab builds a topology, whose hosts stand for containers, for as long as the test runs.
func buildLab(t testing.TB, topology netlab.Topology) *netlab.Lab {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "netns-")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := withPatience()
	defer cancel()
	l, err := netlab.Build(ctx, dir, topology)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error("close the lab:", err)
		}
	})
	return l
}

// process is the main process of a container: this program as keylab is started there, in the network of one of a lab's hosts.
type process struct {
	host   *netlab.Namespace
	role   string
	config string // path

	cmd    *exec.Cmd
	stdin  io.Closer
	output *bytes.Buffer
	ended  chan struct{} // closed when the process has ended; then err says how
	err    error
}

// newProcess writes the role's configuration and starts its process, which ends with the test.
func newProcess(t testing.TB, host *netlab.Namespace, role string, config any) *process {
	t.Helper()
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{host: host, role: role, config: filepath.Join(t.TempDir(), "config.json")}
	if err := os.WriteFile(p.config, data, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	})
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// start starts the process and returns when it answers.
func (p *process) start() error {
	p.output, p.ended = &bytes.Buffer{}, make(chan struct{})
	p.cmd = exec.Command("/proc/self/exe", roles.Marker, p.role, p.config)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	if err := p.host.Start(p.cmd); err != nil {
		return fmt.Errorf("start the %s: %w", p.role, err)
	}
	cmd, ended := p.cmd, p.ended
	go func() {
		p.err = cmd.Wait()
		close(ended)
	}()
	ctx, cancel := withPatience()
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := netroles.NewClient(p.control).Call(ctx, http.MethodGet, "/healthz", nil, nil)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("the %s ended before it answered: %w\n%s", p.role, p.err, p.output)
		case <-ctx.Done():
			return fmt.Errorf("the control socket of the %s does not answer within %v: %w", p.role, patience, err)
		case <-tick.C:
		}
	}
}

// control connects to the control socket, which only the process itself sees where it thinks that it is.
func (p *process) control(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", fmt.Sprintf("/proc/%d/root%s", p.cmd.Process.Pid, netroles.ControlSocket))
}

// stop ends the process as `docker stop` does, and returns when it has ended; it must do so without error.
func (p *process) stop() error {
	if p.cmd == nil || p.cmd.Process == nil {
		return nil
	}
	defer p.stdin.Close() // which ends it in any case
	select {
	case <-p.ended:
	default:
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop the %s: %w", p.role, err)
		}
	}
	select {
	case <-p.ended:
		if p.err != nil {
			return fmt.Errorf("the %s ended: %w\n%s", p.role, p.err, p.output)
		}
		return nil
	case <-time.After(patience):
		return fmt.Errorf("the %s does not end within %v of SIGTERM", p.role, patience)
	}
}

func TestDNSConformance(t *testing.T) {
	dnstest.Run(t, func(t testing.TB) dnstest.Target {
		l := buildLab(t, dnstest.Topology())
		p := newProcess(t, l.Host(dnstest.Server), "dns", netroles.DNSConfig{Zone: dnstest.Zone(), Listen: dnstest.Listen})
		c := netroles.NewDNSClient(p.control)
		return dnstest.Target{
			Dial: func(network string) (net.Conn, error) {
				ctx, cancel := withPatience()
				defer cancel()
				return l.Host(dnstest.Client).DialContext(ctx, network, dnstest.Listen.String())
			},
			Zone: dnstest.Zone(),
			SetRecord: func(name string, a netip.Addr) error {
				ctx, cancel := withPatience()
				defer cancel()
				return c.SetRecord(ctx, name, a)
			},
		}
	})
}

func TestRouterConformance(t *testing.T) {
	routertest.Run(t, func(t testing.TB) routertest.Target {
		place, topology := routertest.DefaultPlace(), routertest.Topology()
		// Docker's container has other addresses than the plan's, and forwards nothing until the role says so.
		router := &topology.Hosts[0]
		router.Forward = false
		router.Interfaces[0].Addresses = []netip.Addr{netip.MustParseAddr("198.18.10.5")}
		router.Interfaces[1].Addresses = []netip.Addr{netip.MustParseAddr("198.18.20.5")}
		l := buildLab(t, topology)
		config := netroles.RouterConfig{Addresses: place.RouterAddresses(), Rules: place.Rules(), Directions: place.Directions()}
		p := newProcess(t, l.Host(routertest.Router), "router", config)
		c := netroles.NewRouterClient(p.control)
		do := func(f func(context.Context) error) func() error {
			return func() error {
				ctx, cancel := withPatience()
				defer cancel()
				return f(ctx)
			}
		}
		return routertest.Target{
			Place: place,
			Host:  func(name string) routertest.Host { return routertest.InNamespace(l.Host(name)) },
			Counters: func() (list []netlab.Counter, err error) {
				err = do(func(ctx context.Context) error { list, err = c.Counters(ctx); return err })()
				return list, err
			},
			Rules: func() (rules []netlab.Rule, open bool, err error) {
				var r netroles.RouterRules
				err = do(func(ctx context.Context) error { r, err = c.Rules(ctx); return err })()
				return r.Rules, r.Open, err
			},
			SetRules: func(rules []netlab.Rule) error {
				return do(func(ctx context.Context) error { return c.SetRules(ctx, rules) })()
			},
			OpenAll: do(c.OpenAll),
			Restore: do(c.Restore),
			// With a container its network goes too, which here outlives the process.
			Stop: func() error {
				return errors.Join(p.stop(), l.Host(routertest.Router).Do(func() error {
					return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0)
				}))
			},
			Start: p.start,
		}
	})
}
