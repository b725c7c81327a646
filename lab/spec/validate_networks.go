package spec

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// smallestBits is the prefix length of the smallest network: the service with the highest number, DNS, is number 53.
const smallestBits = 26

// largestBits is the prefix length of the largest network. A lab never needs more addresses, and a typing mistake does
// not fill 198.18.0.0/15.
const largestBits = 16

// network checks one network by itself.
func (c *checker) network(p netip.Prefix, path string) bool {
	switch {
	case !p.Addr().Is4():
		c.add(path, fmt.Sprintf("%s is not an IPv4 network", p), "an IPv4 network")
	case p != p.Masked():
		c.add(path, fmt.Sprintf("%s is an address inside of a network; the network is %s", p, p.Masked()), p.Masked().String())
	case p.Bits() > smallestBits || p.Bits() < largestBits:
		c.add(path, fmt.Sprintf("%s is not of a size that fits a lab: /%d to /%d", p, largestBits, smallestBits), fmt.Sprintf("/%d to /%d", largestBits, smallestBits))
	case within(p, benchmarkRange):
		return true
	case !slices.ContainsFunc(otherRanges, func(r netip.Prefix) bool { return within(p, r) }):
		c.add(path, fmt.Sprintf("%s holds public addresses, which belong to somebody; use a part of %s", p, benchmarkRange), benchmarkRange.String())
	case !c.spec.Networks.AllowOtherRanges:
		c.add(path, fmt.Sprintf("%s is outside of %s, the range set apart for labs; use a part of that, or set networks.allowOtherRanges: true", p, benchmarkRange), benchmarkRange.String())
	default:
		return true
	}
	return false
}

func within(p, outer netip.Prefix) bool { return p.Bits() >= outer.Bits() && outer.Contains(p.Addr()) }

func (c *checker) networks() {
	n := c.spec.Networks
	services := c.network(n.Services.CIDR, "networks.services.cidr")
	cluster := c.network(n.Cluster.CIDR, "networks.cluster.cidr")
	if services && cluster && n.Services.CIDR.Overlaps(n.Cluster.CIDR) {
		c.add("networks.cluster.cidr", fmt.Sprintf("%s overlaps the services network, %s", n.Cluster.CIDR, n.Services.CIDR), "")
	}
	if cluster {
		c.loadBalancer(n.Cluster)
		if room, need := n.Cluster.Capacity(), c.spec.Nodes.Len(); need > room && need <= MaxNodes {
			c.add("networks.cluster.cidr", fmt.Sprintf("%s has room for %d nodes, and the lab has %d: use a larger network, such as a /22", n.Cluster.CIDR, room, need), "")
		}
	}
	for label := range strings.SplitSeq(n.Domain, ".") {
		if len(label) > 63 { // RFC 1035, section 2.3.4
			c.add("networks.domain", fmt.Sprintf("the label %s is %d characters long; DNS allows 63", quote(label), len(label)), "labels of up to 63 characters")
		}
	}
}

func (c *checker) loadBalancer(n ClusterNetwork) {
	const path = "networks.cluster.loadBalancer"
	lb := n.LoadBalancer
	if !lb.Is4() || !n.CIDR.Contains(lb) {
		c.add(path, fmt.Sprintf("%s is not in the cluster network, %s", lb, n.CIDR), "an address in "+n.CIDR.String())
		return
	}
	number, last := addressNumber(n.CIDR, lb), 1<<(32-n.CIDR.Bits())-1
	for _, taken := range []struct {
		number int
		what   string
	}{{0, "the network's own address"}, {1, "kept for the host"}, {2, "the router's address"}, {dnsNumber, "kept for DNS"}, {last, "the broadcast address"}} {
		if number == taken.number {
			c.add(path, fmt.Sprintf("%s is %s; choose another", lb, taken.what), "")
		}
	}
}

// sides are the hosts of the lab itself, by their network.
var sides = map[string]string{
	HostServices: HostServices, HostRegistrar: HostServices, HostVerifier: HostServices, HostTenant: HostServices, HostDNS: HostServices,
	HostCluster: HostCluster, HostIngress: HostCluster,
}

var (
	flowSources = []string{HostServices, HostCluster, HostRegistrar, HostVerifier, HostTenant, HostDNS, HostIngress}
	flowTargets = []string{HostServices, HostCluster, HostRegistrar, HostVerifier, HostIngress}
)

// reservedFlows are the counters of the lab's own flows and those that every router has.
var reservedFlows = []string{
	"cluster-to-registrar", "cluster-to-registrar-tls", "cluster-to-verifier", "services-to-ingress",
	"established", "dropped", "input-dropped", "input-echo", "open-all",
}

func (c *checker) flows() {
	var nodes []string
	for _, n := range c.spec.Nodes.All() {
		nodes = append(nodes, n.Name)
	}
	end := func(path, name string, known []string) (side string) {
		switch {
		case slices.Contains(known, name):
			return sides[name]
		case slices.Contains(nodes, name):
			return HostCluster
		case name == "":
			return "" // the field is reported as missing
		}
		allowed := strings.Join(known, ", ") + ", or a node's name"
		c.add(path, fmt.Sprintf("%s is not one of %s%s", quote(name), allowed, DidYouMean(name, slices.Concat(known, nodes))), allowed)
		return ""
	}
	names := map[string]int{}
	for i, f := range c.spec.Networks.Allow {
		path := fmt.Sprintf("networks.allow[%d]", i)
		if first, ok := names[f.Name]; ok {
			c.found = append(c.found, finding{path: path + ".name", message: fmt.Sprintf("%q is the name of networks.allow[%d] too", f.Name, first), other: fmt.Sprintf("networks.allow[%d].name", first)})
		} else {
			names[f.Name] = i
		}
		if slices.Contains(reservedFlows, f.Name) || strings.HasPrefix(f.Name, "dropped-") {
			c.add(path+".name", fmt.Sprintf("%q is the name of a counter that the router has anyway; choose another", f.Name), "")
		}
		from := end(path+".from", f.From, flowSources)
		to := end(path+".to", f.To, flowTargets)
		if from != "" && from == to {
			c.add(path+".to", fmt.Sprintf("%s and %s are both on the %s network, so that the router never sees this flow", f.From, f.To, to), "")
		}
		switch {
		case f.Protocol == ICMP && f.Port != 0:
			c.add(path+".port", "ICMP has no ports: remove it", "")
		case (f.Protocol == TCP || f.Protocol == UDP) && f.Port == 0:
			c.add(path+".port", fmt.Sprintf("is missing: a flow of %s needs the port of the receiving side", f.Protocol), "1 to 65535")
		}
	}
}
