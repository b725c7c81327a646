// Package dnstest holds the conformance tests of a lab's DNS server. Every
// substrate's server has to pass them, so that a name means the same in each:
//
//	func TestDNSConformance(t *testing.T) {
//		dnstest.Run(t, func(t testing.TB) dnstest.Target {
//			return dnstest.Target{Dial: …, Zone: …}
//		})
//	}
//
// Nothing in the tests depends on the speed of the machine: they wait for what
// must happen, and give up only after [Patience].
package dnstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"keylab.dev/keylab/netlab"
)

// Patience is how long a test waits for what must happen, and silence for what must not.
const (
	Patience = 30 * time.Second
	silence  = 200 * time.Millisecond
)

// maxPlainUDP is how many bytes an answer over UDP may have if the question did
// not say more (RFC 1035, section 4.2.1).
const maxPlainUDP = 512

// Target is the name server under test.
type Target struct {
	// Dial connects to the server as a host of the lab does, from one of its
	// hosts: network is "udp" or "tcp". Tests call it from many goroutines.
	Dial func(network string) (net.Conn, error)
	// Zone is what the server was told to serve. Its wildcard must be valid.
	Zone netlab.Zone
	// SetRecord gives a name another address, or with the zero Addr takes it
	// away, and returns when that is in force. nil leaves out the test of it.
	SetRecord func(name string, a netip.Addr) error
}

// Run runs all tests against the server that target returns; target is called once.
func Run(t *testing.T, target func(t testing.TB) Target) {
	s := &suite{Target: target(t)}
	s.origin, s.domain = dns.CanonicalName(s.Zone.Origin), dns.CanonicalName(s.Zone.Domain)
	if s.Zone.Origin == "" {
		s.origin = s.domain
	}
	if !t.Run("agents' names lead to the load balancer", s.testAgents) {
		t.Fatal("the other tests would only wait for what does not come")
	}
	t.Run("names of hosts lead to hosts, and back", s.testRecords)
	t.Run("letter case does not matter, and comes back", s.testCase)
	t.Run("names outside the zone are refused", s.testOutside)
	t.Run("unknown names in the zone do not exist", s.testUnknown)
	t.Run("known names without such a record", s.testNoSuchRecord)
	t.Run("the zone describes itself", s.testOrigin)
	t.Run("the longest name fits into the smallest answer", s.testLongest)
	t.Run("Go's resolver understands the answers", s.testResolver)
	t.Run("several questions over one connection", s.testPipeline)
	t.Run("a question of single bytes", s.testSingleBytes)
	t.Run("what is no question", s.testNoQuestion)
	t.Run("garbled and over-long questions", s.testGarbled)
	t.Run("answers are not answered", s.testReflection)
	t.Run("clients that stop in the middle", s.testStalled)
	t.Run("many questions at once", s.testMany)
	if s.SetRecord != nil {
		t.Run("records change at run time", s.testSetRecord)
	}
}

// suite is a target with its names in canonical form: lower case, with a final dot.
type suite struct {
	Target
	origin, domain string
}

// networks are the transports that a server has to serve (RFC 7766, section 5).
var networks = []string{"udp", "tcp"}

func (s *suite) connect(t *testing.T, network string) net.Conn {
	t.Helper()
	c, err := s.Dial(network)
	if err != nil {
		t.Fatalf("connect to the server over %s: %v", network, err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(Patience))
	return c
}

// write sends one message, over TCP with its length before it (RFC 1035, section 4.2.2).
func write(network string, c net.Conn, message []byte) error {
	if network == "tcp" {
		message = append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...)
	}
	_, err := c.Write(message)
	return err
}

// read waits for one message.
func read(network string, c net.Conn) ([]byte, error) {
	message := make([]byte, dns.MaxMsgSize)
	if network != "tcp" {
		n, err := c.Read(message)
		return message[:n], err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, err
	}
	n, err := io.ReadFull(c, message[:binary.BigEndian.Uint16(size[:])])
	return message[:n], err
}

// exchange asks over the connection and waits for the answer to this very question.
func exchange(network string, c net.Conn, q *dns.Msg) (*dns.Msg, error) {
	data, err := q.Pack()
	if err != nil {
		return nil, err
	}
	if err := write(network, c, data); err != nil {
		return nil, err
	}
	for {
		got, err := read(network, c)
		if err != nil {
			return nil, fmt.Errorf("no answer over %s to %s: %w", network, q.Question[0].String(), err)
		}
		reply := new(dns.Msg)
		if err := reply.Unpack(got); err != nil {
			return nil, fmt.Errorf("the answer over %s to %s: %w", network, q.Question[0].String(), err)
		}
		if reply.Id != q.Id {
			continue // to what was sent before over the same connection
		}
		if !reply.Response || len(reply.Question) != 1 || reply.Question[0] != q.Question[0] {
			return nil, fmt.Errorf("no answer over %s to %s, but %v", network, q.Question[0].String(), reply)
		}
		return reply, nil
	}
}

// ask asks one question, over a connection of its own.
func (s *suite) ask(network, name string, kind uint16) (*dns.Msg, error) {
	c, err := s.Dial(network)
	if err != nil {
		return nil, fmt.Errorf("connect over %s: %w", network, err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(Patience))
	q := new(dns.Msg).SetQuestion(name, kind)
	q.SetEdns0(1232, false)
	return exchange(network, c, q)
}

// expected is what an answer must hold.
type expected struct {
	code   int
	answer string // the one record's data, as in a zone file; "" if there must be none
	soa    bool   // resolvers keep a negative answer only with the zone's SOA (RFC 2308, section 5)
}

// The answers that most names have.
var (
	refused = expected{code: dns.RcodeRefused}
	unknown = expected{code: dns.RcodeNameError, soa: true}
	noData  = expected{code: dns.RcodeSuccess, soa: true}
)

func address(a netip.Addr) expected { return expected{code: dns.RcodeSuccess, answer: a.String()} }

// expect asks over each transport.
func (s *suite) expect(t *testing.T, name string, kind uint16, want expected) {
	t.Helper()
	for _, network := range networks {
		what := dns.TypeToString[kind] + " " + name + " over " + network
		reply, err := s.ask(network, name, kind)
		if err != nil {
			t.Error(err)
			continue
		}
		if err := s.check(reply, want); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		// RFC 6891, section 6.1.1: OPT is answered with OPT.
		if reply.IsEdns0() == nil {
			t.Errorf("%s: EDNS(0) was not answered", what)
		}
	}
}

// check compares an answer with what it must hold.
func (s *suite) check(reply *dns.Msg, want expected) error {
	var errs []error
	if reply.Rcode != want.code {
		errs = append(errs, fmt.Errorf("%s, want %s", dns.RcodeToString[reply.Rcode], dns.RcodeToString[want.code]))
	}
	var got []string
	for _, rr := range reply.Answer {
		h := rr.Header()
		got = append(got, strings.TrimPrefix(rr.String(), h.String()))
		// Some resolvers mix the letter case on purpose, and check that it comes back.
		if h.Name != reply.Question[0].Name || h.Ttl != uint32(s.Zone.TTL/time.Second) {
			errs = append(errs, fmt.Errorf("answered as %v, want the name as asked and a TTL of %v", rr, s.Zone.TTL))
		}
	}
	if want.answer == "" && len(got) > 0 || want.answer != "" && !slices.Equal(got, []string{want.answer}) {
		errs = append(errs, fmt.Errorf("answer %q, want %q", got, want.answer))
	}
	if hasSOA := len(reply.Ns) == 1 && reply.Ns[0].Header().Rrtype == dns.TypeSOA; hasSOA != want.soa {
		errs = append(errs, fmt.Errorf("an authority section of %v; SOA wanted: %v", reply.Ns, want.soa))
	}
	if reply.Authoritative != (want.code != dns.RcodeRefused) {
		errs = append(errs, fmt.Errorf("authoritative: %v", reply.Authoritative))
	}
	if reply.Truncated {
		errs = append(errs, errors.New("truncated"))
	}
	return errors.Join(errs...)
}

// alive checks that the server still answers over each transport.
func (s *suite) alive(t *testing.T, after string) {
	t.Helper()
	for _, network := range networks {
		reply, err := s.ask(network, agentName(s.domain), dns.TypeA)
		if err == nil {
			err = s.check(reply, address(s.Zone.Wildcard))
		}
		if err != nil {
			t.Fatalf("after %s: %v", after, err)
		}
	}
}
