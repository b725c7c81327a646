package netroles

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"keylab.dev/keylab/netlab"
)

const patience = 10 * time.Second

// await asks until the control socket answers, or the role has ended.
func await(t *testing.T, ended <-chan error, ask func() error) {
	t.Helper()
	deadline := time.After(patience)
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case e := <-ended:
			t.Fatalf("the role ended: %v", e)
		case <-deadline:
			t.Fatalf("no answer from the control socket: %v", err)
		default:
		}
	}
}

func dialer(socket string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
}

func link(t *testing.T, name, addr string) {
	t.Helper()
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}
	if err := netlink.LinkAdd(v); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netlink.LinkDel(v) })
	a, _ := netlink.ParseAddr(addr)
	peer, _ := netlink.LinkByName(name + "p")
	for _, err := range []error{netlink.LinkSetUp(peer), netlink.AddrAdd(v, a), netlink.LinkSetUp(v)} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestRouterTwice(t *testing.T) {
	link(t, "svc", "198.18.10.5/24")
	link(t, "clu", "198.18.20.5/24")
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	svc, clu := netip.MustParsePrefix("198.18.10.0/24"), netip.MustParsePrefix("198.18.20.0/24")
	config := RouterConfig{
		Addresses:  []netip.Prefix{netip.MustParsePrefix("198.18.10.2/24"), netip.MustParsePrefix("198.18.20.2/24")},
		Rules:      []netlab.Rule{{Name: "to-ingress", From: svc, To: clu, Protocol: "tcp", Port: 443}},
		Directions: []netlab.Direction{{Name: "services-to-cluster", From: svc, To: clu}},
	}
	socket := filepath.Join(t.TempDir(), "control.sock")
	for range 2 { // a container that is restarted finds what it left
		if err := netlink.RouteReplace(&netlink.Route{Dst: all, Gw: net.ParseIP("198.18.10.1")}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- runRouter(ctx, config, socket) }()
		c := NewRouterClient(dialer(socket))
		await(t, ended, func() error { _, err := c.Counters(ctx); return err })

		h, err := netlab.InspectNamespace(netlab.Current())
		if err != nil {
			t.Fatal(err)
		}
		addrs := ""
		for _, l := range h.Links {
			for _, a := range l.Addresses {
				addrs += l.Name + "=" + a.String() + " "
			}
		}
		if !strings.Contains(addrs, "svc=198.18.10.2/24") || !strings.Contains(addrs, "clu=198.18.20.2/24") {
			t.Errorf("addresses are %s", addrs)
		}
		for _, r := range h.Routes {
			if r.To.Bits() == 0 {
				t.Errorf("a default route stayed: %v", r)
			}
		}
		if f, _ := os.ReadFile(forwarding); strings.TrimSpace(string(f)) != "1" {
			t.Errorf("ip_forward is %q", f)
		}
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Fatal("the router does not end")
		}
	}
}

func TestDNSCounts(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.LocalAddr().String())
	l.Close()
	socket := filepath.Join(t.TempDir(), "control.sock")
	ended := make(chan error, 1)
	zone := netlab.Zone{Origin: "lab.test", Domain: "agents.lab.test", Wildcard: netip.MustParseAddr("198.18.20.200")}
	go func() { ended <- runDNS(ctx, DNSConfig{Zone: zone, Listen: at}, socket) }()
	c := NewDNSClient(dialer(socket))
	await(t, ended, func() error { _, err := c.Queries(ctx); return err })
	for name, n := range map[string]int{"a.b.agents.lab.test.": 3, "nobody.lab.test.": 2, "other.test.": 1} {
		for range n {
			if _, err := dns.ExchangeContext(ctx, new(dns.Msg).SetQuestion(name, dns.TypeA), at.String()); err != nil {
				t.Fatalf("ask for %s: %v", name, err)
			}
		}
	}
	want := map[string]uint64{"NOERROR": 3, "NXDOMAIN": 2, "REFUSED": 1}
	if q, err := c.Queries(ctx); err != nil || !maps.Equal(q, want) {
		t.Errorf("the queries were counted as %v, error %v; want %v", q, err, want)
	}
}

// All names below the domain get the address that a server is told, as when a load balancer moves.
func TestDNSWildcard(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.LocalAddr().String())
	l.Close()
	socket := filepath.Join(t.TempDir(), "control.sock")
	ended := make(chan error, 1)
	zone := netlab.Zone{Origin: "lab.test", Domain: "agents.lab.test", Wildcard: netip.MustParseAddr("198.18.20.200")}
	go func() { ended <- runDNS(ctx, DNSConfig{Zone: zone, Listen: at}, socket) }()
	c := NewDNSClient(dialer(socket))
	await(t, ended, func() error { _, err := c.Queries(ctx); return err })
	for _, want := range []string{"198.18.20.201", "198.18.20.200"} {
		if err := c.SetWildcard(ctx, netip.MustParseAddr(want)); err != nil {
			t.Fatal(err)
		}
		r, err := dns.ExchangeContext(ctx, new(dns.Msg).SetQuestion("a.b.agents.lab.test.", dns.TypeA), at.String())
		if err != nil || len(r.Answer) != 1 {
			t.Fatalf("the answer is %v, %v", r, err)
		}
		if a, ok := r.Answer[0].(*dns.A); !ok || a.A.String() != want {
			t.Errorf("the name leads to %v, want %s", r.Answer[0], want)
		}
	}
}
