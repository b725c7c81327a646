package dnstest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// agentName makes up an agent's hostname: a UUID of 64 hexadecimal digits in two labels.
func agentName(domain string) string {
	return fmt.Sprintf("%016x%016x.%016x%016x.%s", rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64(), domain)
}

// records are the zone's own names, in canonical form.
func (s *suite) records() map[string]netip.Addr {
	records := map[string]netip.Addr{}
	for name, a := range s.Zone.Records {
		records[dns.CanonicalName(name)] = a
	}
	return records
}

func reverse(t *testing.T, a netip.Addr) string {
	t.Helper()
	name, err := dns.ReverseAddr(a.String())
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// unused is an address that has no name.
func (s *suite) unused() netip.Addr {
	used := slices.Collect(maps.Values(s.Zone.Records))
	for a := netip.MustParseAddr("198.19.255.1"); ; a = a.Next() {
		if !slices.Contains(used, a) {
			return a
		}
	}
}

func (s *suite) testAgents(t *testing.T) {
	for range 3 { // nobody registers them, so any will do
		s.expect(t, agentName(s.domain), dns.TypeA, address(s.Zone.Wildcard))
	}
	s.expect(t, "a."+s.domain, dns.TypeA, address(s.Zone.Wildcard))
}

func (s *suite) testRecords(t *testing.T) {
	if len(s.Zone.Records) == 0 {
		t.Fatal("the target's zone has no records to ask for")
	}
	names := map[netip.Addr]int{}
	for _, a := range s.Zone.Records {
		names[a]++
	}
	for name, a := range s.records() {
		s.expect(t, name, dns.TypeA, address(a))
		if names[a] == 1 { // else any of them may be the answer
			s.expect(t, reverse(t, a), dns.TypePTR, expected{code: dns.RcodeSuccess, answer: name})
		}
	}
	s.expect(t, reverse(t, s.unused()), dns.TypePTR, expected{code: dns.RcodeNameError})
}

func (s *suite) testCase(t *testing.T) {
	mixed := func(name string) string {
		b := []byte(name)
		for i := range b {
			if i%2 == 0 {
				b[i] = strings.ToUpper(name)[i]
			}
		}
		return string(b)
	}
	// The digits a to f, whatever comes by chance.
	agent := strings.Repeat("abcdef01", 4) + "." + strings.Repeat("23456789", 4) + "." + s.domain
	for _, name := range []string{strings.ToUpper(agent), mixed(agent)} {
		s.expect(t, name, dns.TypeA, address(s.Zone.Wildcard))
	}
	for name, a := range s.records() {
		s.expect(t, strings.ToUpper(name), dns.TypeA, address(a))
		s.expect(t, mixed(name), dns.TypeA, address(a))
	}
	s.expect(t, strings.ToUpper("nobody."+s.origin), dns.TypeA, unknown)
}

func (s *suite) testOutside(t *testing.T) {
	_, parent, _ := strings.Cut(s.origin, ".")
	names := []string{".", "other.test.", "x" + s.origin, s.origin + "org.", agentName(s.domain + "org.")}
	if parent != "" {
		names = append(names, parent, "other."+parent)
	}
	for _, name := range names {
		s.expect(t, name, dns.TypeA, refused)
		s.expect(t, name, dns.TypeAAAA, refused)
	}
	for _, network := range networks {
		q := new(dns.Msg).SetQuestion(agentName(s.domain), dns.TypeA)
		q.Question[0].Qclass = dns.ClassCHAOS
		reply, err := exchange(network, s.connect(t, network), q)
		if err == nil {
			err = s.check(reply, refused)
		}
		if err != nil {
			t.Errorf("a question of class CHAOS over %s: %v", network, err)
		}
	}
}

func (s *suite) testUnknown(t *testing.T) {
	names := []string{"nobody." + s.origin, "a.b." + s.origin, "not" + s.domain, "nobody.not" + s.domain}
	for name := range s.records() {
		if !dns.IsSubDomain(s.domain, name) {
			names = append(names, "nobody."+name)
		}
	}
	for _, name := range names {
		if !dns.IsSubDomain(s.origin, name) {
			continue // "not" before a domain that is the origin itself
		}
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeMX} {
			s.expect(t, name, kind, unknown)
		}
	}
}

// A resolver that asks for both addresses takes NXDOMAIN for one as "no such
// name", whatever the other says; so it must be an empty answer.
func (s *suite) testNoSuchRecord(t *testing.T) {
	for _, kind := range []uint16{dns.TypeAAAA, dns.TypeMX, dns.TypeTXT, dns.TypeHTTPS} {
		s.expect(t, agentName(s.domain), kind, noData)
		for name := range s.records() {
			s.expect(t, name, kind, noData)
		}
	}
	// It exists, but only names below it have addresses.
	s.expect(t, s.domain, dns.TypeA, noData)
	s.expect(t, s.domain, dns.TypeAAAA, noData)
}

func (s *suite) testOrigin(t *testing.T) {
	s.expect(t, s.origin, dns.TypeNS, expected{code: dns.RcodeSuccess, answer: "ns." + s.origin})
	for _, network := range networks {
		reply, err := s.ask(network, s.origin, dns.TypeSOA)
		if err != nil {
			t.Error(err)
		} else if len(reply.Answer) != 1 || reply.Answer[0].Header().Rrtype != dns.TypeSOA || !reply.Authoritative {
			t.Errorf("SOA %s over %s: %v", s.origin, network, reply)
		}
	}
	s.expect(t, s.origin, dns.TypeA, noData)
}

func (s *suite) testLongest(t *testing.T) {
	const maxName = 254 // characters, with the final dot: 255 bytes on the wire (RFC 1035, section 3.1)
	name := s.domain
	for len(name) < maxName-1 {
		name = strings.Repeat("a", min(63, maxName-1-len(name))) + "." + name
	}
	for _, network := range networks {
		q := new(dns.Msg).SetQuestion(name, dns.TypeA) // without EDNS, which would allow more
		c := s.connect(t, network)
		reply, err := exchange(network, c, q)
		if err == nil {
			err = s.check(reply, address(s.Zone.Wildcard))
		}
		if err != nil {
			t.Errorf("a name of %d characters: %v", len(name), err)
		} else if reply.IsEdns0() != nil {
			t.Errorf("EDNS(0) was answered over %s, which had not been asked", network)
		}
	}
	q, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	c := s.connect(t, "udp")
	if err := write("udp", c, q); err != nil {
		t.Fatal("send the question:", err)
	}
	if got, err := read("udp", c); err != nil || len(got) > maxPlainUDP {
		t.Errorf("the answer over UDP to the longest name has %d bytes, error %v; want at most %d", len(got), err, maxPlainUDP)
	}
}

// datagrams is a connection to one peer as a net.PacketConn, by which Go's
// resolver knows that it carries packets.
type datagrams struct{ net.Conn }

func (d datagrams) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := d.Read(b)
	return n, d.RemoteAddr(), err
}

func (d datagrams) WriteTo(b []byte, _ net.Addr) (int, error) { return d.Write(b) }

func (s *suite) testResolver(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	for _, network := range networks {
		r := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			c, err := s.Dial(network)
			if err != nil || network == "tcp" {
				return c, err
			}
			return datagrams{c}, nil
		}}
		name := agentName(s.domain)
		if got, err := r.LookupHost(ctx, name); err != nil || !slices.Equal(got, []string{s.Zone.Wildcard.String()}) {
			t.Errorf("%s over %s: %v, error %v; want %v", name, network, got, err, s.Zone.Wildcard)
		}
		var dnsErr *net.DNSError
		if _, err := r.LookupHost(ctx, "nobody."+s.origin); !errors.As(err, &dnsErr) || !dnsErr.IsNotFound {
			t.Errorf("nobody.%s over %s: %v, want not found", s.origin, network, err)
		}
		for name, a := range s.records() {
			if got, err := r.LookupHost(ctx, name); err != nil || !slices.Equal(got, []string{a.String()}) {
				t.Errorf("%s over %s: %v, error %v; want %v", name, network, got, err, a)
			}
			if names, err := r.LookupAddr(ctx, a.String()); err != nil || len(names) != 1 {
				t.Errorf("%s over %s: %v, error %v; want one name", a, network, names, err)
			}
		}
	}
}

func (s *suite) testMany(t *testing.T) {
	const clients, each = 40, 25
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			network := networks[i%len(networks)]
			c, err := s.Dial(network)
			if err != nil {
				t.Errorf("connect over %s: %v", network, err)
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(Patience))
			for n := range each {
				name, want := agentName(s.domain), address(s.Zone.Wildcard)
				if n%3 == 0 {
					name, want = agentName("nobody."+s.origin), unknown
				}
				reply, err := exchange(network, c, new(dns.Msg).SetQuestion(name, dns.TypeA))
				if err == nil {
					err = s.check(reply, want)
				}
				if err != nil {
					t.Errorf("client %d, question %d: %v", i, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func (s *suite) testSetRecord(t *testing.T) {
	a, b := s.unused(), s.unused().Next()
	set := func(name string, a netip.Addr) {
		t.Helper()
		if err := s.SetRecord(name, a); err != nil {
			t.Fatalf("set the record of %s to %v: %v", name, a, err)
		}
	}
	agent := agentName(s.domain)
	for name, without := range map[string]expected{"new." + s.origin: unknown, agent: address(s.Zone.Wildcard)} {
		set(strings.ToUpper(name), a)
		s.expect(t, name, dns.TypeA, address(a))
		s.expect(t, reverse(t, a), dns.TypePTR, expected{code: dns.RcodeSuccess, answer: name})
		set(name, b)
		s.expect(t, name, dns.TypeA, address(b))
		s.expect(t, reverse(t, a), dns.TypePTR, expected{code: dns.RcodeNameError})
		set(name, netip.Addr{})
		s.expect(t, name, dns.TypeA, without)
		s.expect(t, reverse(t, b), dns.TypePTR, expected{code: dns.RcodeNameError})
	}
	if err := s.SetRecord("new."+s.origin, netip.IPv6Loopback()); err == nil {
		t.Error("an IPv6 address was taken")
	}
	s.expect(t, "new."+s.origin, dns.TypeA, unknown)
}
