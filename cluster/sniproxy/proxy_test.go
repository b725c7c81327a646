package sniproxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/netlab/ingresstest"
)

// haproxy is a HAProxy that runs for a test, with a folder of its own.
type haproxy struct {
	t       testing.TB
	options Options
	cmd     *exec.Cmd
}

func newHAProxy(t testing.TB) *haproxy {
	t.Helper()
	if _, err := exec.LookPath("haproxy"); err != nil {
		t.Skipf("haproxy is not installed: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	dir, err := os.MkdirTemp("", "sni") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h := &haproxy{t: t, options: Options{Dir: dir, Listen: netip.MustParseAddrPort(l.Addr().String()), Slots: 64}}
	if err := WriteConfig(h.options); err != nil {
		t.Fatal(err)
	}
	h.start()
	t.Cleanup(h.stop)
	return h
}

func (h *haproxy) start() {
	h.t.Helper()
	h.cmd = exec.Command("haproxy", "-W", "-db", "-f", filepath.Join(h.options.Dir, fileConfig))
	log := &strings.Builder{}
	h.cmd.Stdout, h.cmd.Stderr = log, log
	if err := h.cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	p := New(h.options)
	await(h.t, "HAProxy to answer", func() error {
		_, err := p.command(context.Background(), "show info")
		return err
	})
}

func (h *haproxy) stop() {
	_ = h.cmd.Process.Signal(os.Interrupt)
	_ = h.cmd.Wait() // ended by the signal
}

func await(t testing.TB, what string, ready func() error) {
	t.Helper()
	deadline := time.Now().Add(ingresstest.Patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s: %v", ingresstest.Patience, what, err)
		}
		<-tick.C
	}
}

// The same cases as for every other ingress of a lab.
func TestConformance(t *testing.T) {
	ingresstest.Run(t, func(t testing.TB) ingresstest.Target {
		h := newHAProxy(t)
		p := New(h.options)
		routes := map[string]string{}
		return ingresstest.Target{
			Addr: h.options.Listen.String(), HelloTimeout: 10 * time.Second,
			AddRoute: func(hostname, backend string) {
				routes[strings.ToLower(hostname)] = backend
				if err := p.SetRoutes(context.Background(), routes); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

// backend answers every connection with its name, after it has read something.
func backend(t *testing.T, name string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
					if _, err := io.WriteString(c, name); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// ask sends a ClientHello with a name and returns the connection and what the backend said; nothing when the proxy closed.
func ask(t *testing.T, h *haproxy, name string) (net.Conn, string) {
	t.Helper()
	c, err := net.Dial("tcp", h.options.Listen.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, say(t, c, name)
}

func say(t *testing.T, c net.Conn, name string) string {
	t.Helper()
	hello, err := ingresstest.ClientHello(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(ingresstest.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(hello); err != nil {
		return ""
	}
	buf := make([]byte, 64)
	n, _ := c.Read(buf) // closed: nothing
	return string(buf[:n])
}

// A route that changes leaves the connections that are there alone, and keeps its counter; one that is gone refuses.
func TestRoutesChange(t *testing.T) {
	h := newHAProxy(t)
	p := New(h.options)
	one, two := backend(t, "one"), backend(t, "two")
	set := func(routes map[string]string) {
		t.Helper()
		if err := p.SetRoutes(t.Context(), routes); err != nil {
			t.Fatal(err)
		}
	}
	set(map[string]string{"a.test": one})
	c, got := ask(t, h, "a.test")
	if got != "one" {
		t.Fatalf("a.test leads to %q", got)
	}
	set(map[string]string{"a.test": two, "b.test": one})
	if got := say(t, c, "a.test"); got != "one" {
		t.Errorf("a connection of before the change gets %q", got)
	}
	if _, got := ask(t, h, "a.test"); got != "two" {
		t.Errorf("after the change a.test leads to %q", got)
	}
	set(map[string]string{"b.test": one})
	if _, got := ask(t, h, "a.test"); got != "" {
		t.Errorf("a name without a route leads to %q", got)
	}
	s, err := p.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if s.Connections["a.test"] != 2 || s.Refused != 1 {
		t.Errorf("counted %+v, want 2 of a.test and 1 refused", s)
	}
}

// HAProxy and its driver are restarted independently of each other: routes are right again, and counters keep their meaning.
func TestRestarts(t *testing.T) {
	h := newHAProxy(t)
	routes := map[string]string{}
	for i := range 5 {
		routes[fmt.Sprintf("n%d.test", i)] = backend(t, fmt.Sprint(i))
	}
	first := New(h.options)
	if err := first.SetRoutes(t.Context(), routes); err != nil {
		t.Fatal(err)
	}
	if _, got := ask(t, h, "n3.test"); got != "3" {
		t.Fatalf("n3.test leads to %q", got)
	}

	// Another driver, which knows of less: what the first has set goes, what stays keeps its slot and its counter.
	delete(routes, "n0.test")
	second := New(h.options)
	if err := second.SetRoutes(t.Context(), routes); err != nil {
		t.Fatal(err)
	}
	if _, got := ask(t, h, "n0.test"); got != "" {
		t.Errorf("a name that the new driver does not know leads to %q", got)
	}
	if _, got := ask(t, h, "n3.test"); got != "3" {
		t.Errorf("after another driver's start n3.test leads to %q", got)
	}
	if s, err := second.Stats(t.Context()); err != nil || s.Connections["n3.test"] != 2 {
		t.Errorf("n3.test was counted %d times, %v; want 2", s.Connections["n3.test"], err)
	}

	h.stop()
	h.start()
	if err := second.SetRoutes(t.Context(), routes); err != nil {
		t.Fatal(err)
	}
	if _, got := ask(t, h, "n4.test"); got != "4" {
		t.Errorf("after HAProxy's restart n4.test leads to %q", got)
	}
}

// There is room for as many names as there are slots, those of names that are gone included.
func TestSlots(t *testing.T) {
	h := newHAProxy(t)
	h.options.Slots = 2
	p := New(h.options)
	to := backend(t, "x")
	if err := p.SetRoutes(t.Context(), map[string]string{"a.test": to, "b.test": to}); err != nil {
		t.Fatal(err)
	}
	if err := p.SetRoutes(t.Context(), map[string]string{"a.test": to, "b.test": to, "c.test": to}); err == nil || !strings.Contains(err.Error(), "room for 2") {
		t.Errorf("a third name in two slots: %v", err)
	}
	if err := p.SetRoutes(t.Context(), map[string]string{"b.test": to, "c.test": to}); err != nil {
		t.Error(err)
	}
	if _, got := ask(t, h, "c.test"); got != "x" {
		t.Errorf("c.test leads to %q", got)
	}
}
