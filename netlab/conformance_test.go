package netlab_test

import (
	"context"
	"net"
	"os"
	"testing"

	"keylab.dev/keylab/netlab"
	"keylab.dev/keylab/netlab/dnstest"
	"keylab.dev/keylab/netlab/routertest"
)

func TestDNSConformance(t *testing.T) {
	dnstest.Run(t, func(t testing.TB) dnstest.Target {
		l := netlab.BuildLab(t, dnstest.Topology())
		conn, err := l.Host(dnstest.Server).ListenPacket("udp4", dnstest.Listen.String())
		if err != nil {
			t.Fatal(err)
		}
		listener, err := l.Host(dnstest.Server).Listen("tcp4", dnstest.Listen.String())
		if err != nil {
			t.Fatal(err)
		}
		d, err := netlab.ServeDNS(context.Background(), dnstest.Zone(), []net.PacketConn{conn}, []net.Listener{listener}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return dnstest.Target{
			Dial: func(network string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(context.Background(), dnstest.Patience)
				defer cancel()
				return l.Host(dnstest.Client).DialContext(ctx, network, dnstest.Listen.String())
			},
			Zone:      dnstest.Zone(),
			SetRecord: d.SetRecord,
		}
	})
}

func TestRouterConformance(t *testing.T) {
	routertest.Run(t, func(t testing.TB) routertest.Target {
		place := routertest.DefaultPlace()
		l := netlab.BuildLab(t, routertest.Topology())
		r, err := netlab.ApplyRules(l.Host(routertest.Router), place.Rules(), place.Directions()...)
		if err != nil {
			t.Fatal(err)
		}
		forward := func(value string) func() error {
			return func() error {
				return l.Host(routertest.Router).Do(func() error {
					return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(value), 0)
				})
			}
		}
		return routertest.Target{
			Place:    place,
			Host:     func(name string) routertest.Host { return routertest.InNamespace(l.Host(name)) },
			Counters: r.Counters,
			Rules: func() ([]netlab.Rule, bool, error) {
				rules, open := r.Rules()
				return rules, open, nil
			},
			SetRules: r.SetRules,
			OpenAll:  r.OpenAll,
			Restore:  r.Restore,
			Stop:     forward("0"),
			Start:    forward("1"),
		}
	})
}
