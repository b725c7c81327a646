package plan

import (
	"net/netip"
	"slices"
)

// WithIngress is the plan as it is once the load balancer has another address: the ingress, its rules and names follow.
func (p Plan) WithIngress(to netip.Addr) Plan {
	from := p.Keylime.Ingress.Addr()
	p.Keylime.Ingress = netip.AddrPortFrom(to, p.Keylime.Ingress.Port())
	p.Hosts = slices.Clone(p.Hosts)
	for i, h := range p.Hosts {
		if h.Name == Ingress {
			p.Hosts[i].Interfaces = slices.Clone(h.Interfaces)
			p.Hosts[i].Interfaces[0].Address = to
		}
	}
	p.Rules = slices.Clone(p.Rules)
	for i, r := range p.Rules {
		for _, end := range []*netip.Prefix{&r.From, &r.To} {
			if *end == netip.PrefixFrom(from, from.BitLen()) {
				*end = netip.PrefixFrom(to, to.BitLen())
			}
		}
		p.Rules[i] = r
	}
	if p.DNS.Wildcard == from {
		p.DNS.Wildcard = to
	}
	records := map[string]netip.Addr{}
	for name, a := range p.DNS.Records {
		if a == from {
			a = to
		}
		records[name] = a
	}
	p.DNS.Records = records
	return p
}

// SpareIngress is an address of the cluster network that no host has, nor anybody else (others), for the ingress to move to: the next one after its own, from
// the network's first on where there is none. The zero Addr: the network is full.
func (p Plan) SpareIngress(others ...netip.Addr) netip.Addr {
	taken := map[netip.Addr]bool{}
	for _, a := range others {
		taken[a] = true
	}
	for _, h := range p.Hosts {
		for _, i := range h.Interfaces {
			taken[i.Address] = true
		}
	}
	cluster := p.Network(Cluster).Prefix
	for _, start := range []netip.Addr{p.Keylime.Ingress.Addr().Next(), cluster.Masked().Addr().Next()} {
		for a := start; cluster.Contains(a) && a != lastAddr(cluster); a = a.Next() {
			if !taken[a] {
				return a
			}
		}
	}
	return netip.Addr{}
}
