package netlab

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

var dnsAddr = netip.MustParseAddr("198.18.10.53")

// dnsLab has a name server on the services network, as a real lab has.
func dnsLab(t *testing.T, zone Zone) (*Lab, *DNS) {
	t.Helper()
	topo := testTopology(0)
	topo.Hosts = append(topo.Hosts, serviceHost("dns", dnsAddr))
	l := buildLab(t, topo)
	conn, err := l.Host("dns").ListenPacket("udp4", "198.18.10.53:53")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := l.Host("dns").Listen("tcp4", "198.18.10.53:53")
	if err != nil {
		t.Fatal(err)
	}
	d, err := ServeDNS(context.Background(), zone, []net.PacketConn{conn}, []net.Listener{listener}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return l, d
}

func labZone() Zone {
	return Zone{
		Domain:   "agents.lab.test",
		Wildcard: ingressAddr,
		Origin:   "lab.test",
		Records: map[string]netip.Addr{
			"registrar.lab.test":      registrarAddr,
			"Verifier.Lab.Test.":      verifierAddr,
			"special.agents.lab.test": nodeAddr(7),
		},
		TTL: 5 * time.Second,
	}
}

// exchange asks the server one question from the verifier's host.
func exchange(t *testing.T, l *Lab, network, name string, kind uint16) *dns.Msg {
	t.Helper()
	ctx := testContext(t)
	c, err := l.Host("verifier").DialContext(ctx, network, "198.18.10.53:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	q := new(dns.Msg).SetQuestion(name, kind)
	q.SetEdns0(1232, false)
	reply, _, err := new(dns.Client).ExchangeWithConnContext(ctx, q, &dns.Conn{Conn: c})
	if err != nil {
		t.Fatalf("ask for %s over %s: %v", name, network, err)
	}
	return reply
}

func TestDNSAnswers(t *testing.T) {
	l, _ := dnsLab(t, labZone())
	agent := strings.Repeat("a", 32) + "." + strings.Repeat("b", 32) + ".agents.lab.test."
	for _, c := range []struct {
		name string
		kind uint16
		code int
		want string // the answer's data; "" for none
	}{
		{agent, dns.TypeA, dns.RcodeSuccess, ingressAddr.String()},
		{strings.ToUpper(agent), dns.TypeA, dns.RcodeSuccess, ingressAddr.String()},
		{"one.agents.lab.test.", dns.TypeA, dns.RcodeSuccess, ingressAddr.String()},
		{"special.agents.lab.test.", dns.TypeA, dns.RcodeSuccess, nodeAddr(7).String()},
		{"registrar.lab.test.", dns.TypeA, dns.RcodeSuccess, registrarAddr.String()},
		{"vERIFIER.lab.test.", dns.TypeA, dns.RcodeSuccess, verifierAddr.String()},
		{agent, dns.TypeAAAA, dns.RcodeSuccess, ""},
		{"registrar.lab.test.", dns.TypeAAAA, dns.RcodeSuccess, ""},
		{"agents.lab.test.", dns.TypeA, dns.RcodeSuccess, ""}, // it exists, but only names below it have addresses
		{"lab.test.", dns.TypeNS, dns.RcodeSuccess, "ns.lab.test."},
		{"nobody.lab.test.", dns.TypeA, dns.RcodeNameError, ""},
		{"notagents.lab.test.", dns.TypeA, dns.RcodeNameError, ""},
		{"lab.test.org.", dns.TypeA, dns.RcodeRefused, ""},
		{"test.", dns.TypeA, dns.RcodeRefused, ""},
		{"11.10.18.198.in-addr.arpa.", dns.TypePTR, dns.RcodeSuccess, "registrar.lab.test."},
		{"99.10.18.198.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, ""},
	} {
		for _, network := range []string{"udp", "tcp"} {
			reply := exchange(t, l, network, c.name, c.kind)
			what := dns.TypeToString[c.kind] + " " + c.name + " over " + network
			if reply.Rcode != c.code {
				t.Errorf("%s: %s, want %s", what, dns.RcodeToString[reply.Rcode], dns.RcodeToString[c.code])
			}
			got := ""
			if len(reply.Answer) == 1 {
				got = strings.TrimPrefix(reply.Answer[0].String(), reply.Answer[0].Header().String())
				if reply.Answer[0].Header().Name != c.name || reply.Answer[0].Header().Ttl != 5 {
					t.Errorf("%s: answered as %v", what, reply.Answer[0])
				}
			}
			if got != c.want || len(reply.Answer) > 1 {
				t.Errorf("%s: answer %q, want %q", what, reply.Answer, c.want)
			}
			reverse := strings.HasSuffix(c.name, "in-addr.arpa.")
			if c.want == "" && c.code != dns.RcodeRefused && !reverse && (len(reply.Ns) != 1 || reply.Ns[0].Header().Rrtype != dns.TypeSOA) {
				t.Errorf("%s: a negative answer without SOA, which resolvers do not keep: %v", what, reply.Ns)
			}
			if reply.Authoritative != (c.code != dns.RcodeRefused) || reply.IsEdns0() == nil {
				t.Errorf("%s: authoritative %v, EDNS0 %v", what, reply.Authoritative, reply.IsEdns0())
			}
		}
	}
}

func TestDNSServesGosResolver(t *testing.T) {
	l, d := dnsLab(t, labZone())
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return l.Host("registrar").DialContext(ctx, network, "198.18.10.53:53")
	}}
	got, err := r.LookupHost(testContext(t), "x.y.agents.lab.test.")
	if err != nil || !slices.Equal(got, []string{ingressAddr.String()}) {
		t.Errorf("x.y.agents.lab.test: %v %v", got, err)
	}
	var dnsErr *net.DNSError
	if _, err := r.LookupHost(testContext(t), "nobody.lab.test."); !errors.As(err, &dnsErr) || !dnsErr.IsNotFound {
		t.Errorf("nobody.lab.test: %v, want not found", err)
	}
	if names, err := r.LookupAddr(testContext(t), "198.18.10.12"); err != nil || !slices.Equal(names, []string{"verifier.lab.test."}) {
		t.Errorf("198.18.10.12: %v %v", names, err)
	}
	queries := d.Queries()
	for q, want := range map[Query]uint64{
		{"x.y.agents.lab.test", "A", "NOERROR"}:    1,
		{"x.y.agents.lab.test", "AAAA", "NOERROR"}: 1,
		{"nobody.lab.test", "A", "NXDOMAIN"}:       1,
	} {
		if queries[q] != want {
			t.Errorf("%v was counted %d times, want %d", q, queries[q], want)
		}
	}
}

func TestDNSChangesAtRunTime(t *testing.T) {
	l, d := dnsLab(t, labZone())
	answer := func(name string) string {
		t.Helper()
		reply := exchange(t, l, "udp", name, dns.TypeA)
		if len(reply.Answer) == 0 {
			return dns.RcodeToString[reply.Rcode]
		}
		return reply.Answer[0].(*dns.A).A.String()
	}
	set := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	set(d.SetWildcard(nodeAddr(1)))
	if got := answer("a.agents.lab.test."); got != nodeAddr(1).String() {
		t.Errorf("the new wildcard: %s", got)
	}
	set(d.SetRecord("A.agents.lab.test", nodeAddr(2)))
	if got := answer("a.agents.lab.test."); got != nodeAddr(2).String() {
		t.Errorf("the new record: %s", got)
	}
	set(d.SetRecord("a.agents.lab.test", netip.Addr{}))
	if got := answer("a.agents.lab.test."); got != nodeAddr(1).String() {
		t.Errorf("after the record was removed: %s", got)
	}
	if reply := exchange(t, l, "udp", "12.20.18.198.in-addr.arpa.", dns.TypePTR); reply.Rcode != dns.RcodeNameError {
		t.Errorf("the removed record's reverse: %v", reply.Answer)
	}
	set(d.SetWildcard(netip.Addr{}))
	if got := answer("a.agents.lab.test."); got != "NXDOMAIN" {
		t.Errorf("without a wildcard: %s", got)
	}
}

func TestDNSEndsWithItsContext(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d, err := ServeDNS(ctx, Zone{Domain: "lab.test"}, []net.PacketConn{conn}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	d.ended.Wait() // hangs if it does not end
	if _, err := conn.WriteTo([]byte("x"), conn.LocalAddr()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("its socket is still open: %v", err)
	}
}

func TestZoneFaults(t *testing.T) {
	for _, c := range []struct {
		zone Zone
		want string
	}{
		{Zone{}, "domain"},
		{Zone{Domain: "lab.test", Origin: "other.test"}, "not in the origin"},
		{Zone{Domain: "lab.test", Wildcard: netip.IPv6Loopback()}, "not IPv4"},
		{Zone{Domain: "lab.test", Records: map[string]netip.Addr{"a..b": ingressAddr}}, `record "a..b"`},
		{Zone{Domain: "lab.test", TTL: -time.Second}, "TTL"},
	} {
		if _, err := ServeDNS(context.Background(), c.zone, nil, nil, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want %q", c.zone, err, c.want)
		}
	}
}

func TestResolvConf(t *testing.T) {
	got := ResolvConf(dnsAddr, "lab.test", "agents.lab.test")
	for _, want := range []string{"nameserver 198.18.10.53\n", "search lab.test agents.lab.test\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if strings.Contains(ResolvConf(dnsAddr), "search") {
		t.Error("a search line without domains")
	}
}
