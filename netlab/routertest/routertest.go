// Package routertest holds the conformance tests of a lab's router: forwarding
// by an allow list, with counters. Every substrate's router has to pass them,
// so that what `verify` reads from it means the same in each:
//
//	func TestRouterConformance(t *testing.T) {
//		routertest.Run(t, func(t testing.TB) routertest.Target {
//			l := … // netlab.Build of routertest.Topology()
//			return routertest.Target{Place: routertest.DefaultPlace(), Host: …, Counters: …}
//		})
//	}
//
// That nothing passes can only be seen by waiting for a while; but each packet
// that was dropped is also a packet counted, which does not depend on the speed
// of the machine.
package routertest

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"keylab.dev/keylab/netlab"
)

// Patience is how long a test waits for what must happen, and silence for what
// must not: less than the second after which TCP sends its first packet again.
const (
	Patience = 30 * time.Second
	silence  = 300 * time.Millisecond
)

// Host is one of a router's hosts.
type Host interface {
	Listen(network, address string) (net.Listener, error)
	ListenPacket(network, address string) (net.PacketConn, error)
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	// Probe tries to reach an address by tcp, udp or icmp.
	Probe(ctx context.Context, protocol string, to netip.AddrPort, timeout time.Duration) netlab.ProbeResult
}

// InNamespace is a host that is a network namespace of this machine.
func InNamespace(ns *netlab.Namespace) Host { return namespaceHost{ns} }

type namespaceHost struct{ *netlab.Namespace }

func (h namespaceHost) Probe(ctx context.Context, protocol string, to netip.AddrPort, timeout time.Duration) netlab.ProbeResult {
	switch protocol {
	case "tcp":
		return netlab.ProbeTCP(ctx, h.Namespace, to, timeout)
	case "udp":
		return netlab.ProbeUDP(ctx, h.Namespace, to, []byte("x"), timeout)
	case "icmp":
		return netlab.ProbeICMP(ctx, h.Namespace, to.Addr(), timeout)
	}
	return netlab.ProbeResult{Outcome: netlab.OutcomeFailed, Err: fmt.Errorf("no probe for protocol %q", protocol)}
}

// Target is the router under test, with the rules of its [Place] in force and
// counting by its directions.
type Target struct {
	// Place is where the hosts are.
	Place Place
	// Host is one of them, to connect from and to listen on; the router too. Tests
	// call it from many goroutines.
	Host func(name string) Host
	// Counters reads the router's counters, as netlab.Router.Counters does.
	Counters func() ([]netlab.Counter, error)
	// Rules returns the allow list, and whether it is suspended by OpenAll.
	Rules func() (rules []netlab.Rule, open bool, err error)
	// SetRules, OpenAll and Restore are those of netlab.Router; they return when
	// the change is in force.
	SetRules         func(rules []netlab.Rule) error
	OpenAll, Restore func() error
	// Stop ends the forwarding, and Start begins it again with the place's rules in force;
	// counters may start from zero. They return when that is so. In between no
	// other function is called.
	Stop, Start func() error
}

// Run runs all tests against the router that target returns; target is called once.
func Run(t *testing.T, target func(t testing.TB) Target) {
	s := &suite{Target: target(t)}
	if !t.Run("the rules that it starts with", s.testStart) {
		t.Fatal("the other tests would only wait for what does not come")
	}
	t.Run("an allowed connection passes and is counted", s.testAllowed)
	t.Run("replies pass both ways on one count", s.testReplies)
	t.Run("what no rule names is dropped and counted", s.testDropped)
	t.Run("rules of each protocol", s.testProtocols)
	t.Run("errors of allowed flows come back", s.testErrors)
	t.Run("the router itself only answers pings", s.testRouterItself)
	t.Run("many connections are each counted", s.testMany)
	t.Run("rules are replaced", s.testSetRules)
	t.Run("wrong rules change nothing", s.testWrongRules)
	t.Run("open, and restored", s.testOpenAll)
	t.Run("stopped, and started again", s.testStop) // the last: it may leave counters at zero
}

type suite struct{ Target }

// counts are the packets of each counter.
type counts map[string]uint64

func (s *suite) read(t *testing.T) counts {
	t.Helper()
	list, err := s.Counters()
	if err != nil {
		t.Fatal("read the counters:", err)
	}
	c := counts{}
	for _, counter := range list {
		c[counter.Name] = counter.Packets
		if counter.Bytes < 20*counter.Packets { // the shortest IPv4 header
			t.Errorf("counter %s has %d bytes in %d packets", counter.Name, counter.Bytes, counter.Packets)
		}
	}
	return c
}

// since is how much every counter has risen since an earlier reading.
func (s *suite) since(t *testing.T, before counts) counts {
	t.Helper()
	now := s.read(t)
	for name, n := range before {
		if now[name] < n {
			t.Errorf("counter %s went from %d to %d", name, n, now[name])
		}
		now[name] -= n
	}
	return now
}

// allow puts these rules in force and no others.
func (s *suite) allow(t *testing.T, rules ...netlab.Rule) {
	t.Helper()
	if err := s.SetRules(rules); err != nil {
		t.Fatal("set the rules:", err)
	}
}

// serve answers every connection to the port with the peer's address.
func (s *suite) serve(t *testing.T, host string, port uint16) {
	t.Helper()
	s.listen(t, host, port, func(c net.Conn) {
		io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String())
	})
}

// echo sends every byte back.
func (s *suite) echo(t *testing.T, host string, port uint16) {
	t.Helper()
	s.listen(t, host, port, func(c net.Conn) { io.Copy(c, c) })
}

func (s *suite) listen(t *testing.T, host string, port uint16, serve func(net.Conn)) {
	t.Helper()
	l, err := s.Host(host).Listen("tcp4", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatalf("listen on port %d of %s: %v", port, host, err)
	}
	var ended sync.WaitGroup
	t.Cleanup(ended.Wait)
	t.Cleanup(func() { l.Close() })
	ended.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(Patience))
				serve(c)
			}()
		}
	})
}

// serveUDP answers every packet to the port with the peer's address.
func (s *suite) serveUDP(t *testing.T, host string, port uint16) {
	t.Helper()
	c, err := s.Host(host).ListenPacket("udp4", fmt.Sprintf(":%d", port))
	if err != nil {
		t.Fatalf("listen on UDP port %d of %s: %v", port, host, err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		for {
			_, from, err := c.ReadFrom(make([]byte, 2048))
			if err != nil {
				return
			}
			c.WriteTo([]byte(from.(*net.UDPAddr).IP.String()), from)
		}
	}()
}

func (s *suite) dial(network, from, to string, port uint16) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	c, err := s.Host(from).DialContext(ctx, network, netip.AddrPortFrom(s.Place.addresses[to], port).String())
	if err == nil {
		err = c.SetDeadline(time.Now().Add(Patience))
	}
	return c, err
}

// ask connects and returns what the server says until it closes.
func (s *suite) ask(from, to string, port uint16) (string, error) {
	c, err := s.dial("tcp", from, to, port)
	if err != nil {
		return "", err
	}
	defer c.Close()
	said, err := io.ReadAll(c)
	return string(said), err
}

// askUDP sends a packet and returns what comes back.
func (s *suite) askUDP(from, to string, port uint16) (string, error) {
	c, err := s.dial("udp", from, to, port)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := c.Write([]byte("who am I?")); err != nil {
		return "", err
	}
	said := make([]byte, 2048)
	n, err := c.Read(said)
	return string(said[:n]), err
}

// passes expects that a connection is made, and that the server sees the client's own address.
func (s *suite) passes(t *testing.T, from, to string, port uint16) {
	t.Helper()
	if got, err := s.ask(from, to, port); err != nil || got != s.Place.addresses[from].String() {
		t.Errorf("%s to %s, port %d: it saw the address %q, error %v; want %v", from, to, port, got, err, s.Place.addresses[from])
	}
}

// dropped expects silence.
func (s *suite) dropped(t *testing.T, from, to string, port uint16) {
	t.Helper()
	if got := s.probe(t, "tcp", from, s.Place.addresses[to], port, silence); got.Outcome != netlab.OutcomeTimeout {
		t.Errorf("%s to %s, port %d: %v, want %s", from, to, port, got, netlab.OutcomeTimeout)
	}
}

// probe tries to reach an address by tcp, udp or icmp.
func (s *suite) probe(t *testing.T, protocol, from string, to netip.Addr, port uint16, timeout time.Duration) netlab.ProbeResult {
	t.Helper()
	at := netip.AddrPortFrom(to, port)
	r := s.Host(from).Probe(t.Context(), protocol, at, timeout)
	if r.Outcome == netlab.OutcomeFailed {
		t.Fatalf("%s probe from %s to %v: %v", protocol, from, at, r)
	}
	return r
}
