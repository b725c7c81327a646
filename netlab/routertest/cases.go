package routertest

import (
	"bytes"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"keylab.dev/keylab/netlab"
)

func (s *suite) testStart(t *testing.T) {
	rules, open, err := s.Rules()
	if err != nil || open || !slices.Equal(rules, s.Place.Rules()) {
		t.Errorf("the rules are %v, open %v, error %v; want %v", rules, open, err, s.Place.Rules())
	}
	var want []string
	for _, r := range s.Place.Rules() {
		want = append(want, r.Name)
	}
	want = append(want, netlab.CounterEstablished, netlab.CounterDropped, toCluster, toServices,
		netlab.CounterInput, netlab.CounterInputEcho, netlab.CounterOpenAll)
	list, err := s.Counters()
	if err != nil {
		t.Fatal("read the counters:", err)
	}
	var got []string
	for _, c := range list {
		got = append(got, c.Name)
	}
	if slices.Sort(want); !slices.Equal(got, want) { // the counters come sorted
		t.Errorf("the counters are %q, want %q", got, want)
	}
	s.serve(t, registrar, 8890)
	s.passes(t, node1, registrar, 8890)
	s.dropped(t, node1, verifier, 8890)
}

func (s *suite) testAllowed(t *testing.T) {
	s.allow(t, s.Place.register(), s.Place.toIngress())
	s.serve(t, registrar, 8890)
	s.serve(t, ingress, 443)
	before := s.read(t)
	for n := uint64(1); n <= 3; n++ {
		s.passes(t, node1, registrar, 8890)
		if got := s.since(t, before)["register"]; got != n {
			t.Errorf("after %d connections the rule's counter is %d", n, got)
		}
	}
	if got := s.since(t, before)["to-ingress"]; got != 0 {
		t.Errorf("the other rule counted %d", got)
	}
	s.passes(t, verifier, ingress, 443)
	got := s.since(t, before)
	if got["register"] != 3 || got["to-ingress"] != 1 {
		t.Errorf("the rules counted %d and %d connections, want 3 and 1", got["register"], got["to-ingress"])
	}
	if got[netlab.CounterEstablished] == 0 {
		t.Error("no packet of an established connection was counted")
	}
	for _, name := range []string{netlab.CounterDropped, toCluster, toServices, netlab.CounterOpenAll, netlab.CounterInput} {
		if got[name] != 0 {
			t.Errorf("counter %s rose by %d", name, got[name])
		}
	}
}

func (s *suite) testReplies(t *testing.T) {
	s.allow(t, s.Place.register())
	s.echo(t, registrar, 8890)
	before := s.read(t)
	c, err := s.dial("tcp", node1, registrar, 8890)
	if err != nil {
		t.Fatal("connect as the rule allows:", err)
	}
	defer c.Close()
	// More than a packet, over networks that do not take packets of the same length.
	sent, got := bytes.Repeat([]byte("0123456789abcdef"), 16<<10), make([]byte, 16*16<<10)
	var writer sync.WaitGroup
	writer.Go(func() {
		if _, err := c.Write(sent); err != nil {
			t.Error("write through the router:", err)
		}
	})
	n, err := io.ReadFull(c, got)
	writer.Wait()
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back, error %v", n, len(sent), err)
	}
	rose := s.since(t, before)
	// At most 1400 bytes a packet, there and back; 64 KB if the links join packets.
	if least := uint64(2 * len(sent) / (64 << 10)); rose["register"] != 1 || rose[netlab.CounterEstablished] < least || rose[netlab.CounterDropped] != 0 {
		t.Errorf("one connection of %d bytes each way was counted as %v", len(sent), rose)
	}
}

func (s *suite) testDropped(t *testing.T) {
	s.allow(t, s.Place.register(), s.Place.toIngress())
	for _, l := range []struct {
		host string
		port uint16
	}{{registrar, 8890}, {registrar, 8891}, {verifier, 8890}, {node1, 8890}, {node1, 9002}, {ingress, 443}, {ingress, 80}} {
		s.serve(t, l.host, l.port)
	}
	s.serveUDP(t, registrar, 8890)
	for _, c := range []struct {
		what, protocol, from, to string
		port                     uint16
		counter                  string
	}{
		{"another port", "tcp", node1, registrar, 8891, toServices},
		{"another host", "tcp", node1, verifier, 8890, toServices},
		{"another protocol", "udp", node1, registrar, 8890, toServices},
		{"no port at all", "icmp", node1, registrar, 0, toServices},
		{"past the ingress", "tcp", verifier, node1, 9002, toCluster},
		{"another port of the ingress", "tcp", verifier, ingress, 80, toCluster},
		{"the rule the other way round", "tcp", registrar, node1, 8890, toCluster},
		{"a ping towards the cluster", "icmp", verifier, node1, 0, toCluster},
	} {
		before := s.read(t)
		if got := s.probe(t, c.protocol, c.from, s.Place.addresses[c.to], c.port, silence); got.Outcome != netlab.OutcomeTimeout {
			t.Errorf("%s: %s from %s to %s, port %d: %v, want %s", c.what, c.protocol, c.from, c.to, c.port, got, netlab.OutcomeTimeout)
		}
		rose := s.since(t, before)
		delete(rose, netlab.CounterEstablished) // an earlier test's connection may just be ending
		maps.DeleteFunc(rose, func(_ string, n uint64) bool { return n == 0 })
		if n := rose[c.counter]; n == 0 || rose[netlab.CounterDropped] != n || len(rose) != 2 {
			t.Errorf("%s: the counters rose by %v, want %s and %s by the same", c.what, rose, netlab.CounterDropped, c.counter)
		}
	}
	s.passes(t, node2, registrar, 8890)
	s.passes(t, verifier, ingress, 443)
	s.passes(t, node1, ingress, 80) // in one network, past the router
}

func (s *suite) testProtocols(t *testing.T) {
	s.allow(t,
		netlab.Rule{Name: "dns", From: s.Place.Cluster, To: s.Place.only(registrar), Protocol: "udp", Port: 53},
		netlab.Rule{Name: "ping", From: s.Place.Cluster, To: s.Place.Services, Protocol: "icmp"},
		netlab.Rule{Name: "any-tcp", From: s.Place.only(node1), To: s.Place.only(verifier), Protocol: "tcp"})
	s.serveUDP(t, registrar, 53)
	s.serveUDP(t, registrar, 54)
	s.serve(t, verifier, 12345)
	before := s.read(t)
	if got, err := s.askUDP(node1, registrar, 53); err != nil || got != s.Place.addresses[node1].String() {
		t.Errorf("udp 53: it saw the address %q, error %v; want %v", got, err, s.Place.addresses[node1])
	}
	if got := s.probe(t, "udp", node1, s.Place.addresses[registrar], 54, silence); got.Outcome != netlab.OutcomeTimeout {
		t.Error("udp 54:", got)
	}
	if got := s.probe(t, "icmp", node1, s.Place.addresses[registrar], 0, Patience); got.Outcome != netlab.OutcomeOpen {
		t.Error("ping:", got)
	}
	if got := s.probe(t, "icmp", registrar, s.Place.addresses[node1], 0, silence); got.Outcome != netlab.OutcomeTimeout {
		t.Error("ping the other way round:", got)
	}
	s.passes(t, node1, verifier, 12345)
	s.dropped(t, node2, verifier, 12345) // from another host than the rule's
	rose := s.since(t, before)
	for _, rule := range []string{"dns", "ping", "any-tcp"} {
		if rose[rule] != 1 {
			t.Errorf("rule %s counted %d", rule, rose[rule])
		}
	}
}

// Whoever is refused must be told at once, as without a router between.
func (s *suite) testErrors(t *testing.T) {
	s.allow(t, s.Place.register(),
		netlab.Rule{Name: "udp", From: s.Place.Cluster, To: s.Place.Services, Protocol: "udp"})
	before := s.read(t)
	if got := s.probe(t, "udp", node1, s.Place.addresses[registrar], 53, Patience); got.Outcome != netlab.OutcomeRefused {
		t.Errorf("an allowed UDP port where nobody listens: %v, want %s by ICMP", got, netlab.OutcomeRefused)
	}
	if got := s.probe(t, "tcp", node1, s.Place.addresses[registrar], s.Place.register().Port, Patience); got.Outcome != netlab.OutcomeRefused {
		t.Errorf("an allowed TCP port where nobody listens: %v, want %s", got, netlab.OutcomeRefused)
	}
	rose := s.since(t, before)
	if rose["udp"] != 1 || rose["register"] != 1 || rose[netlab.CounterEstablished] < 2 || rose[netlab.CounterDropped] != 0 {
		t.Errorf("two refusals were counted as %v", rose)
	}
}

func (s *suite) testRouterItself(t *testing.T) {
	s.allow(t, s.Place.register())
	s.serve(t, Router, 22)
	s.serveUDP(t, Router, 53)
	before := s.read(t)
	for from, router := range map[string]netip.Addr{node1: s.Place.routerAtCluster, registrar: s.Place.routerAtServices} {
		if got := s.probe(t, "icmp", from, router, 0, Patience); got.Outcome != netlab.OutcomeOpen {
			t.Errorf("ping the router from %s: %v", from, got)
		}
		for protocol, port := range map[string]uint16{"tcp": 22, "udp": 53} {
			if got := s.probe(t, protocol, from, router, port, silence); got.Outcome != netlab.OutcomeTimeout {
				t.Errorf("%s from %s to the router: %v, want %s", protocol, from, got, netlab.OutcomeTimeout)
			}
		}
	}
	rose := s.since(t, before)
	if rose[netlab.CounterInputEcho] != 2 || rose[netlab.CounterInput] < 4 || rose[netlab.CounterDropped] != 0 {
		t.Errorf("two pings and four packets to the router itself were counted as %v", rose)
	}
}

func (s *suite) testMany(t *testing.T) {
	s.allow(t, s.Place.register(), s.Place.toIngress())
	s.serve(t, registrar, 8890)
	s.serve(t, ingress, 443)
	const each = 40
	before := s.read(t)
	var clients sync.WaitGroup
	for _, c := range []struct {
		from, to string
		port     uint16
	}{{node1, registrar, 8890}, {node2, registrar, 8890}, {verifier, ingress, 443}} {
		for range each {
			clients.Go(func() { s.passes(t, c.from, c.to, c.port) })
		}
	}
	clients.Wait()
	if rose := s.since(t, before); rose["register"] != 2*each || rose["to-ingress"] != each {
		t.Errorf("the rules counted %d and %d connections, want %d and %d", rose["register"], rose["to-ingress"], 2*each, each)
	}
}

func (s *suite) testSetRules(t *testing.T) {
	s.allow(t, s.Place.register(), s.Place.toIngress())
	s.serve(t, registrar, 8891)
	s.echo(t, registrar, 8890)
	before := s.read(t)
	kept, err := s.dial("tcp", node1, registrar, 8890)
	if err != nil {
		t.Fatal("connect as the rule allows:", err)
	}
	defer kept.Close()

	tls := netlab.Rule{Name: "register-tls", From: s.Place.Cluster, To: s.Place.only(registrar), Protocol: "tcp", Port: 8891}
	s.allow(t, s.Place.register(), tls)
	now := s.read(t)
	if now["register"] != before["register"]+1 {
		t.Errorf("the kept rule's counter went from %d to %d, want one more", before["register"], now["register"])
	}
	if n, ok := now["to-ingress"]; ok {
		t.Errorf("the removed rule still has a counter, which is %d", n)
	}
	s.passes(t, node1, registrar, 8891)
	if got := s.read(t)["register-tls"]; got != 1 {
		t.Errorf("the new rule's counter is %d, want 1", got)
	}

	s.allow(t, tls)
	s.dropped(t, node1, registrar, 8890)
	exchange(t, kept, "a connection that was made before its rule was removed")
	if rules, _, err := s.Rules(); err != nil || !slices.Equal(rules, []netlab.Rule{tls}) {
		t.Errorf("the rules are %v, error %v; want %v alone", rules, err, tls)
	}
}

// exchange expects that what goes over the connection comes back.
func exchange(t *testing.T, c net.Conn, what string) {
	t.Helper()
	got := make([]byte, 5)
	_, err := c.Write([]byte("hello"))
	if err == nil {
		_, err = io.ReadFull(c, got)
	}
	if err != nil || string(got) != "hello" {
		t.Errorf("%s: %q came back, error %v", what, got, err)
	}
}

func (s *suite) testWrongRules(t *testing.T) {
	s.allow(t, s.Place.register())
	s.serve(t, registrar, 8890)
	before := s.read(t)
	err := s.SetRules([]netlab.Rule{s.Place.toIngress(), {Name: "sctp", From: s.Place.Cluster, To: s.Place.Services, Protocol: "sctp"}})
	if err == nil || !strings.Contains(err.Error(), `protocol "sctp"`) {
		t.Errorf("rules of which one is wrong: %v, want an error that names it", err)
	}
	if rules, _, err := s.Rules(); err != nil || !slices.Equal(rules, []netlab.Rule{s.Place.register()}) {
		t.Errorf("the rules are %v, error %v; want %v alone", rules, err, s.Place.register())
	}
	s.passes(t, node1, registrar, 8890)
	s.dropped(t, verifier, ingress, 443)
	if got := s.since(t, before)["register"]; got != 1 {
		t.Errorf("the rule counted %d connections, want 1", got)
	}
}

func (s *suite) testOpenAll(t *testing.T) {
	s.allow(t, s.Place.register())
	s.serve(t, registrar, 8890)
	s.serve(t, verifier, 8890)
	s.serve(t, node1, 9002)
	before := s.read(t)
	if err := s.OpenAll(); err != nil {
		t.Fatal("open the router:", err)
	}
	if rules, open, err := s.Rules(); err != nil || !open || !slices.Equal(rules, []netlab.Rule{s.Place.register()}) {
		t.Errorf("with the router open the rules are %v, open %v, error %v", rules, open, err)
	}
	s.passes(t, verifier, node1, 9002)
	s.passes(t, node2, verifier, 8890)
	s.passes(t, node2, registrar, 8890)
	if got := s.probe(t, "icmp", node1, s.Place.addresses[registrar], 0, Patience); got.Outcome != netlab.OutcomeOpen {
		t.Error("ping with the router open:", got)
	}
	s.allow(t, s.Place.register(), s.Place.toIngress()) // does not close it
	s.passes(t, verifier, node1, 9002)
	rose := s.since(t, before)
	if rose[netlab.CounterOpenAll] != 4 || rose["register"] != 1 || rose[netlab.CounterDropped] != 0 {
		t.Errorf("four flows that no rule names, and one that a rule does, were counted as %v", rose)
	}

	if err := s.Restore(); err != nil {
		t.Fatal("restore the router:", err)
	}
	if _, open, err := s.Rules(); err != nil || open {
		t.Errorf("after Restore it is open: %v, error %v", open, err)
	}
	before = s.read(t)
	s.dropped(t, verifier, node1, 9002)
	s.dropped(t, node2, verifier, 8890)
	s.passes(t, node2, registrar, 8890)
	rose = s.since(t, before)
	if rose[toCluster] == 0 || rose[toServices] == 0 || rose[netlab.CounterOpenAll] != 0 || rose["register"] != 1 {
		t.Errorf("after Restore a drop each way and a connection were counted as %v", rose)
	}
}

func (s *suite) testStop(t *testing.T) {
	s.allow(t, s.Place.Rules()...)
	s.serve(t, registrar, 8890)
	s.serve(t, ingress, 443)
	s.serve(t, node2, 9002)
	s.passes(t, node1, registrar, 8890)
	if err := s.Stop(); err != nil {
		t.Fatal("stop the forwarding:", err)
	}
	for _, c := range []struct {
		from, to string
		port     uint16
	}{{node1, registrar, 8890}, {verifier, ingress, 443}, {verifier, node2, 9002}} {
		if got := s.probe(t, "tcp", c.from, s.Place.addresses[c.to], c.port, silence); got.Outcome == netlab.OutcomeOpen {
			t.Errorf("with forwarding stopped %s still reaches port %d of %s", c.from, c.port, c.to)
		}
	}
	s.passes(t, node1, node2, 9002) // within a network nothing changes
	if err := s.Start(); err != nil {
		t.Fatal("start the forwarding:", err)
	}
	before := s.read(t)
	s.passes(t, node1, registrar, 8890)
	s.passes(t, verifier, ingress, 443)
	s.dropped(t, verifier, node2, 9002)
	rose := s.since(t, before)
	if rose["register"] != 1 || rose["to-ingress"] != 1 || rose[toCluster] == 0 {
		t.Errorf("after the start two connections and a drop were counted as %v", rose)
	}
}
