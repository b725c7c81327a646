package netlab

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
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
func exchange(t *testing.T, l *Lab, name string, kind uint16) *dns.Msg {
	t.Helper()
	ctx := testContext(t)
	c, err := l.Host("verifier").DialContext(ctx, "udp", "198.18.10.53:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	q := new(dns.Msg).SetQuestion(name, kind)
	reply, _, err := new(dns.Client).ExchangeWithConnContext(ctx, q, &dns.Conn{Conn: c})
	if err != nil {
		t.Fatalf("ask for %s: %v", name, err)
	}
	return reply
}

func TestDNSCountsByNameTypeAndCode(t *testing.T) {
	l, d := dnsLab(t, labZone())
	for _, name := range []string{"x.y.agents.lab.test.", "X.y.Agents.lab.test.", "nobody.lab.test."} {
		exchange(t, l, name, dns.TypeA)
	}
	exchange(t, l, "x.y.agents.lab.test.", dns.TypeAAAA)
	exchange(t, l, "test.", dns.TypeA)
	want := map[Query]uint64{
		{"x.y.agents.lab.test", "A", "NOERROR"}:    2,
		{"x.y.agents.lab.test", "AAAA", "NOERROR"}: 1,
		{"nobody.lab.test", "A", "NXDOMAIN"}:       1,
		{"test", "A", "REFUSED"}:                   1,
	}
	if got := d.Queries(); !maps.Equal(got, want) {
		t.Errorf("the queries were counted as %v, want %v", got, want)
	}
}

func TestDNSWildcardChangesAtRunTime(t *testing.T) {
	l, d := dnsLab(t, labZone())
	answer := func(name string) string {
		t.Helper()
		reply := exchange(t, l, name, dns.TypeA)
		if len(reply.Answer) == 0 {
			return dns.RcodeToString[reply.Rcode]
		}
		return reply.Answer[0].(*dns.A).A.String()
	}
	if err := d.SetWildcard(nodeAddr(1)); err != nil {
		t.Fatal(err)
	}
	if got := answer("a.agents.lab.test."); got != nodeAddr(1).String() {
		t.Errorf("the new wildcard: %s", got)
	}
	if got := answer("special.agents.lab.test."); got != nodeAddr(7).String() {
		t.Errorf("a name with a record of its own: %s", got)
	}
	if err := d.SetWildcard(netip.Addr{}); err != nil {
		t.Fatal(err)
	}
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

func TestDNSFailsOnPurpose(t *testing.T) {
	l, d := dnsLab(t, labZone())
	const name = "registrar.lab.test."
	if err := d.SetFailure(DNSServfail); err != nil {
		t.Fatal(err)
	}
	if reply := exchange(t, l, name, dns.TypeA); reply.Rcode != dns.RcodeServerFailure || len(reply.Answer) != 0 {
		t.Errorf("a server that fails answers %v", reply)
	}
	if err := d.SetFailure(DNSNothing); err != nil {
		t.Fatal(err)
	}
	question, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	if r := ProbeUDP(testContext(t), l.Host("verifier"), netip.AddrPortFrom(dnsAddr, 53), question, silence); r.Outcome != OutcomeTimeout {
		t.Errorf("a server that answers nothing: %v", r)
	}
	if err := d.SetFailure("sometimes"); err == nil {
		t.Error("a failure that there is not was accepted")
	}
	if err := d.SetFailure(DNSWell); err != nil {
		t.Fatal(err)
	}
	if reply := exchange(t, l, name, dns.TypeA); reply.Rcode != dns.RcodeSuccess || len(reply.Answer) != 1 {
		t.Errorf("a server that is well again answers %v", reply)
	}
	want := map[Query]uint64{
		{"registrar.lab.test", "A", "SERVFAIL"}:    1,
		{"registrar.lab.test", "A", "(no answer)"}: 1,
		{"registrar.lab.test", "A", "NOERROR"}:     1,
	}
	if got := d.Queries(); !maps.Equal(got, want) {
		t.Errorf("the queries were counted as %v, want %v", got, want)
	}
}
