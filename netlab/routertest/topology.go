package routertest

import (
	"maps"
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

// Place is where a router's hosts are.
type Place struct {
	Services, Cluster                 netip.Prefix
	routerAtServices, routerAtCluster netip.Addr
	addresses                         map[string]netip.Addr
}

// DefaultPlace is that of [Topology].
func DefaultPlace() Place {
	p := PlaceAt(netip.MustParsePrefix("198.18.10.0/24"), netip.MustParsePrefix("198.18.20.0/24"), 11)
	p.addresses[ingress] = netip.MustParseAddr("198.18.20.200")
	return p
}

// PlaceAt is in two networks of a lab, whose router is the second host of each: the tests' own hosts have the addresses from the first-th on.
func PlaceAt(services, cluster netip.Prefix, first int) Place {
	nth := func(p netip.Prefix, n int) netip.Addr {
		a := p.Masked().Addr()
		for range n {
			a = a.Next()
		}
		return a
	}
	return Place{
		Services: services, Cluster: cluster, routerAtServices: nth(services, 2), routerAtCluster: nth(cluster, 2),
		addresses: map[string]netip.Addr{
			registrar: nth(services, first), verifier: nth(services, first+1),
			node1: nth(cluster, first), node2: nth(cluster, first+1), ingress: nth(cluster, first+2),
		},
	}
}

// Addresses are those of the tests' own hosts, by name.
func (p Place) Addresses() map[string]netip.Addr { return maps.Clone(p.addresses) }

// Topology is what the tests need: two networks as a lab has them, their hosts,
// and as the first of them the router.
func Topology() netlab.Topology {
	p := DefaultPlace()
	services := netlab.Network{Name: "services", Prefix: p.Services}
	cluster := netlab.Network{Name: "cluster", Prefix: p.Cluster, MTU: 1400}
	t := netlab.Topology{
		Networks: []netlab.Network{services, cluster},
		Hosts: []netlab.Host{{Name: Router, Forward: true, Interfaces: []netlab.Interface{
			{Network: services.Name, Addresses: []netip.Addr{p.routerAtServices}},
			{Network: cluster.Name, Addresses: []netip.Addr{p.routerAtCluster}},
		}}},
	}
	for _, name := range []string{registrar, verifier, ingress, node1, node2} {
		a := p.addresses[name]
		network, route := services, netlab.Route{To: cluster.Prefix, Via: p.routerAtServices}
		if cluster.Prefix.Contains(a) {
			network, route = cluster, netlab.Route{To: services.Prefix, Via: p.routerAtCluster}
		}
		t.Hosts = append(t.Hosts, netlab.Host{
			Name:       name,
			Interfaces: []netlab.Interface{{Network: network.Name, Addresses: []netip.Addr{a}}},
			Routes:     []netlab.Route{route},
		})
	}
	return t
}

// RouterAddresses are the router's own, with the lengths of its networks.
func (p Place) RouterAddresses() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(p.routerAtServices, p.Services.Bits()), netip.PrefixFrom(p.routerAtCluster, p.Cluster.Bits())}
}

// The directions' counters.
const (
	toCluster  = "dropped-services-to-cluster"
	toServices = "dropped-cluster-to-services"
)

// Directions are those that the router counts by.
func (p Place) Directions() []netlab.Direction {
	return []netlab.Direction{
		{Name: "services-to-cluster", From: p.Services, To: p.Cluster},
		{Name: "cluster-to-services", From: p.Cluster, To: p.Services},
	}
}

func (p Place) only(host string) netip.Prefix { return netip.PrefixFrom(p.addresses[host], 32) }

func (p Place) register() netlab.Rule {
	return netlab.Rule{Name: "register", From: p.Cluster, To: p.only(registrar), Protocol: "tcp", Port: 8890}
}

func (p Place) toIngress() netlab.Rule {
	return netlab.Rule{Name: "to-ingress", From: p.Services, To: p.only(ingress), Protocol: "tcp", Port: 443}
}

// Rules are those that the router starts with.
func (p Place) Rules() []netlab.Rule { return []netlab.Rule{p.register(), p.toIngress()} }
