package routertest

import (
	"net/netip"

	"keylab.dev/keylab/netlab"
)

// The hosts of [Topology]: two in the services network, three in the cluster
// network, and the router in both.
const (
	Router    = "router"
	registrar = "registrar"
	verifier  = "verifier"
	ingress   = "ingress"
	node1     = "node1"
	node2     = "node2"
)

var (
	services = netlab.Network{Name: "services", Prefix: netip.MustParsePrefix("198.18.10.0/24")}
	cluster  = netlab.Network{Name: "cluster", Prefix: netip.MustParsePrefix("198.18.20.0/24"), MTU: 1400}

	routerAtServices = netip.MustParseAddr("198.18.10.2")
	routerAtCluster  = netip.MustParseAddr("198.18.20.2")

	addresses = map[string]netip.Addr{
		registrar: netip.MustParseAddr("198.18.10.11"),
		verifier:  netip.MustParseAddr("198.18.10.12"),
		ingress:   netip.MustParseAddr("198.18.20.200"),
		node1:     netip.MustParseAddr("198.18.20.11"),
		node2:     netip.MustParseAddr("198.18.20.12"),
	}
)

// Topology is what the tests need: two networks as a lab has them, their hosts,
// and as the first of them the router.
func Topology() netlab.Topology {
	t := netlab.Topology{
		Networks: []netlab.Network{services, cluster},
		Hosts: []netlab.Host{{Name: Router, Forward: true, Interfaces: []netlab.Interface{
			{Network: services.Name, Addresses: []netip.Addr{routerAtServices}},
			{Network: cluster.Name, Addresses: []netip.Addr{routerAtCluster}},
		}}},
	}
	for _, name := range []string{registrar, verifier, ingress, node1, node2} {
		a := addresses[name]
		network, route := services, netlab.Route{To: cluster.Prefix, Via: routerAtServices}
		if cluster.Prefix.Contains(a) {
			network, route = cluster, netlab.Route{To: services.Prefix, Via: routerAtCluster}
		}
		t.Hosts = append(t.Hosts, netlab.Host{
			Name:       name,
			Interfaces: []netlab.Interface{{Network: network.Name, Addresses: []netip.Addr{a}}},
			Routes:     []netlab.Route{route},
		})
	}
	return t
}

// Addresses are the router's own, with the lengths of its networks.
func Addresses() []netip.Prefix {
	return []netip.Prefix{
		netip.PrefixFrom(routerAtServices, services.Prefix.Bits()),
		netip.PrefixFrom(routerAtCluster, cluster.Prefix.Bits()),
	}
}

// The directions' counters.
const (
	toCluster  = "dropped-services-to-cluster"
	toServices = "dropped-cluster-to-services"
)

// Directions are those that the router counts by.
func Directions() []netlab.Direction {
	return []netlab.Direction{
		{Name: "services-to-cluster", From: services.Prefix, To: cluster.Prefix},
		{Name: "cluster-to-services", From: cluster.Prefix, To: services.Prefix},
	}
}

func only(host string) netip.Prefix { return netip.PrefixFrom(addresses[host], 32) }

var (
	register  = netlab.Rule{Name: "register", From: cluster.Prefix, To: only(registrar), Protocol: "tcp", Port: 8890}
	toIngress = netlab.Rule{Name: "to-ingress", From: services.Prefix, To: only(ingress), Protocol: "tcp", Port: 443}
)

// Rules are those that the router starts with.
func Rules() []netlab.Rule { return []netlab.Rule{register, toIngress} }
