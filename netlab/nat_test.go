package netlab

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNATLetsOutAndNotIn(t *testing.T) {
	l := buildLab(t, testTopology(2))
	serveOn(t, l.Host("registrar"), "198.18.10.11:8890")
	serveOn(t, l.Host("node2"), "198.18.20.12:9002")
	serveOn(t, l.Host("node1"), "198.18.20.11:9002")
	before, err := l.Inspect()
	if err != nil {
		t.Fatal(err)
	}
	agent := netip.MustParseAddrPort("198.18.20.11:9002")
	kept := connectionOf(t, l, "node1", "198.18.10.11:8899")
	if _, ok, err := l.NAT("node1"); ok || err != nil {
		t.Errorf("a host that is behind no NAT router has one: %v", err)
	}

	if err := l.InsertNAT(testContext(t), "node1"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // by the router, and in the same network: both see the address that the host had
		for _, to := range []string{"198.18.10.11:8890", "198.18.20.12:9002"} {
			if got := ask(t, l.Host("node1"), to); got != "198.18.20.11" {
				t.Errorf("%s saw %s", to, got)
			}
		}
	}
	if r := ProbeICMP(testContext(t), l.Host("node1"), ingressAddr, patience); r.Outcome != OutcomeOpen {
		t.Errorf("ping from behind the NAT router: %v", r)
	}
	for _, from := range []string{"node2", "ingress", "registrar"} {
		if r := ProbeTCP(testContext(t), l.Host(from), agent, silence); r.Outcome != OutcomeTimeout {
			t.Errorf("%s to the host behind the NAT router: %v", from, r)
		}
		inner := netip.AddrPortFrom(natOf(t, l, "node1").Inner, 9002)
		if r := ProbeTCP(testContext(t), l.Host(from), inner, silence); r.Outcome == OutcomeOpen {
			t.Errorf("%s to the inner address: %v", from, r)
		}
	}
	if s := natOf(t, l, "node1"); s.Translated != 5 || s.Refused < 3 || !innerSpace.Contains(s.Inner) || services.Prefix.Contains(s.Inner) || cluster.Prefix.Contains(s.Inner) {
		t.Errorf("the NAT router says %+v, want 5 connections translated", s)
	}
	if got := ask(t, l.Host("ingress"), "198.18.20.12:9002"); got != "198.18.20.200" {
		t.Errorf("another host was seen as %s", got)
	}
	wantBroken(t, kept)

	// A pulled cable counts behind the router too.
	if err := l.Partition("node1"); err != nil {
		t.Fatal(err)
	}
	if r := ProbeTCP(testContext(t), l.Host("node1"), netip.MustParseAddrPort("198.18.20.12:9002"), silence); r.Outcome == OutcomeOpen {
		t.Errorf("with its cable pulled: %v", r)
	}
	if err := l.Heal("node1"); err != nil {
		t.Fatal(err)
	}
	kept = connectionOf(t, l, "node1", "198.18.10.11:8898")
	serveOn(t, l.Host("node1"), "198.18.20.11:9003") // a program that is started meanwhile

	for range 2 {
		if err := l.RemoveNAT("node1"); err != nil {
			t.Fatal(err)
		}
	}
	wantBroken(t, kept)
	for _, to := range []string{agent.String(), "198.18.20.11:9003"} { // the same sockets listen
		if got := ask(t, l.Host("registrar"), to); got != "198.18.10.11" {
			t.Errorf("without the NAT router the host saw %s", got)
		}
	}
	if got := ask(t, l.Host("node1"), "198.18.10.11:8890"); got != "198.18.20.11" {
		t.Errorf("without the NAT router the registrar saw %s", got)
	}
	after, err := l.Inspect()
	if err != nil {
		t.Fatal(err)
	}
	if b, a := withoutTraffic(before), withoutTraffic(after); !reflect.DeepEqual(a, b) {
		t.Errorf("the lab is not as it was:\n%+v\nbefore\n%+v", a, b)
	}
	if err := l.InsertNAT(testContext(t), "node1"); err != nil { // again, and taken away with the lab
		t.Fatal(err)
	}
}

func TestNATWithOtherThings(t *testing.T) {
	l := buildLab(t, testTopology(2))
	for _, host := range []string{"node1", "node2"} { // two at once, of which neither reaches the other
		if err := l.InsertNAT(testContext(t), host); err != nil {
			t.Fatal(err)
		}
	}
	serveOn(t, l.Host("registrar"), "198.18.10.11:8890")
	for host, address := range map[string]string{"node1": "198.18.20.11", "node2": "198.18.20.12"} {
		if got := ask(t, l.Host(host), "198.18.10.11:8890"); got != address {
			t.Errorf("%s was seen as %s", host, got)
		}
	}
	if err := l.Impair("ingress", Impairment{Delay: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	for want, do := range map[string]func() error{
		"no such host":                            func() error { return l.InsertNAT(testContext(t), "nobody") },
		"it is behind one already":                func() error { return l.InsertNAT(testContext(t), "node1") },
		"one interface and one address":           func() error { return l.InsertNAT(testContext(t), "router") },
		"impair node1: it is behind a NAT router": func() error { return l.Impair("node1", Impairment{Loss: 1}) },
		"its cable is impaired":                   func() error { return l.InsertNAT(testContext(t), "ingress") },
		"198.18.20.19: it is behind a NAT router": func() error { return l.MoveAddress("node1", nodeAddr(1), nodeAddr(9)) },
	} {
		if err := do(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	// A host that leaves takes its router with it: another may have its name and address.
	if err := l.RemoveHost("node1"); err != nil {
		t.Fatal(err)
	}
	links, err := l.switches["cluster"].h.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if name := link.Attrs().Name; strings.HasPrefix(name, "nat") && !slices.Contains(append(l.hosts["node2"].nat.near[:], l.hosts["node2"].nat.bridge), name) {
			t.Errorf("%s of the host's NAT router is left in the switch", name)
		}
	}
	if err := l.AddHost(testContext(t), clusterHost("node1", nodeAddr(1))); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, l.Host("node1"), "198.18.10.11:8890"); got != "198.18.20.11" {
		t.Errorf("the new host was seen as %s", got)
	}
	if err := l.InsertNAT(testContext(t), "node1"); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, l.Host("node1"), "198.18.10.11:8890"); got != "198.18.20.11" || natOf(t, l, "node1").Translated != 1 {
		t.Errorf("the new host was seen as %s, and its router says %+v", got, natOf(t, l, "node1"))
	}
}

func natOf(t *testing.T, l *Lab, host string) NATStats {
	t.Helper()
	s, ok, err := l.NAT(host)
	if err != nil || !ok {
		t.Fatalf("the NAT router of %s: %v, %v", host, ok, err)
	}
	return s
}

// connectionOf is a connection of the host to an address of the registrar's, at which nobody says anything.
func connectionOf(t *testing.T, l *Lab, host, to string) net.Conn {
	t.Helper()
	listener, err := l.Host("registrar").Listen("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	c, err := l.Host(host).DialContext(testContext(t), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// wantBroken wants the connection to be told that it is gone, long before any time-out.
func wantBroken(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(patience))
	_, err := c.Read(make([]byte, 1))
	var timeout net.Error
	if err == nil || err == io.EOF || (errors.As(err, &timeout) && timeout.Timeout()) {
		t.Errorf("a connection from before: %v, want it broken", err)
	}
}

// withoutTraffic is what Inspect tells, less the counters.
func withoutTraffic(in Inspection) Inspection {
	for _, h := range in.Hosts {
		for i := range h.Links {
			h.Links[i].RxBytes, h.Links[i].TxBytes = 0, 0
		}
	}
	return in
}
