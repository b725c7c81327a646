package dnstest

import (
	"net/netip"
	"time"

	"keylab.dev/keylab/netlab"
)

// The hosts of [Topology].
const (
	Server = "dns"
	Client = "client"
)

// Listen is where the server of [Topology] listens, over both transports.
var Listen = netip.MustParseAddrPort("198.18.10.53:53")

// Topology is a network with a host for the server and one for its clients, for
// targets that are made for the tests.
func Topology() netlab.Topology {
	host := func(name string, a netip.Addr) netlab.Host {
		return netlab.Host{Name: name, Interfaces: []netlab.Interface{{Network: "services", Addresses: []netip.Addr{a}}}}
	}
	return netlab.Topology{
		Networks: []netlab.Network{{Name: "services", Prefix: netip.MustParsePrefix("198.18.10.0/24")}},
		Hosts:    []netlab.Host{host(Server, Listen.Addr()), host(Client, netip.MustParseAddr("198.18.10.12"))},
	}
}

// Zone is what the server of [Topology] serves: all that a lab's zone can hold.
func Zone() netlab.Zone {
	return netlab.Zone{
		Domain:   "agents.lab.test",
		Wildcard: netip.MustParseAddr("198.18.20.200"),
		Origin:   "lab.test",
		Records: map[string]netip.Addr{
			"registrar.lab.test":      netip.MustParseAddr("198.18.10.11"),
			"Verifier.Lab.Test.":      netip.MustParseAddr("198.18.10.12"),
			"special.agents.lab.test": netip.MustParseAddr("198.18.20.17"),
		},
		TTL: 5 * time.Second,
	}
}
