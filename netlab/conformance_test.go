package netlab_test

import (
	"context"
	"net"
	"testing"

	"keylab.dev/keylab/netlab"
	"keylab.dev/keylab/netlab/dnstest"
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
