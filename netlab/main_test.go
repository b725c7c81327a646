package netlab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"keylab.dev/keylab/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m, nstest.Options{Mounts: true}) }

// The plan of the tests' lab: two networks and a router, as a real lab has them.
var (
	services = Network{Name: "services", Prefix: netip.MustParsePrefix("198.18.10.0/24")}
	cluster  = Network{Name: "cluster", Prefix: netip.MustParsePrefix("198.18.20.0/24"), MTU: 1400}

	registrarAddr = netip.MustParseAddr("198.18.10.11")
	verifierAddr  = netip.MustParseAddr("198.18.10.12")
	routerAtSvc   = netip.MustParseAddr("198.18.10.2")
	routerAtClu   = netip.MustParseAddr("198.18.20.2")
	ingressAddr   = netip.MustParseAddr("198.18.20.200")
)

func nodeAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{198, 18, 20, byte(10 + i)})
}

func serviceHost(name string, a netip.Addr) Host {
	return Host{
		Name:       name,
		Interfaces: []Interface{{Network: "services", Addresses: []netip.Addr{a}}},
		Routes:     []Route{{To: cluster.Prefix, Via: routerAtSvc}},
	}
}

func clusterHost(name string, a netip.Addr) Host {
	return Host{
		Name:       name,
		Interfaces: []Interface{{Network: "cluster", Addresses: []netip.Addr{a}}},
		Routes:     []Route{{To: services.Prefix, Via: routerAtClu}},
	}
}

func testTopology(nodes int) Topology {
	t := Topology{
		Networks: []Network{services, cluster},
		Hosts: []Host{
			{Name: "router", Forward: true, Interfaces: []Interface{
				{Network: "services", Addresses: []netip.Addr{routerAtSvc}},
				{Network: "cluster", Addresses: []netip.Addr{routerAtClu}},
			}},
			serviceHost("registrar", registrarAddr),
			serviceHost("verifier", verifierAddr),
			clusterHost("ingress", ingressAddr),
		},
	}
	for i := 1; i <= nodes; i++ {
		t.Hosts = append(t.Hosts, clusterHost(fmt.Sprintf("node%d", i), nodeAddr(i)))
	}
	return t
}

// buildLab builds a topology in a folder of the test's own and takes it away at its end.
func buildLab(t testing.TB, topo Topology) *Lab {
	t.Helper()
	l, err := Build(context.Background(), runDir(t), topo)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error("close the lab:", err)
		}
	})
	return l
}

// runDir is a folder where namespaces can be bound.
func runDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "netns-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
