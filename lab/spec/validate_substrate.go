package spec

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
)

// substrate checks what only one substrate has.
func (c *checker) substrate() {
	c.agentImages()
	if c.spec.Substrate != SubstrateKind {
		c.onlyKind()
		return
	}
	k := c.spec.Kubernetes
	pods := c.kubernetesRange(k.PodCIDR, "kubernetes.podCIDR", 22)
	services := c.kubernetesRange(k.ServiceCIDR, "kubernetes.serviceCIDR", 24)
	n := c.spec.Networks
	for _, other := range []struct {
		prefix netip.Prefix
		name   string
	}{{n.Services.CIDR, "the services network"}, {n.Cluster.CIDR, "the cluster network"}} {
		if pods && k.PodCIDR.Overlaps(other.prefix) {
			c.add("kubernetes.podCIDR", fmt.Sprintf("%s overlaps %s, %s", k.PodCIDR, other.name, other.prefix), "")
		}
		if services && k.ServiceCIDR.Overlaps(other.prefix) {
			c.add("kubernetes.serviceCIDR", fmt.Sprintf("%s overlaps %s, %s", k.ServiceCIDR, other.name, other.prefix), "")
		}
	}
	if pods && services && k.PodCIDR.Overlaps(k.ServiceCIDR) {
		c.add("kubernetes.serviceCIDR", fmt.Sprintf("%s overlaps the pods' addresses, %s", k.ServiceCIDR, k.PodCIDR), "")
	}
	if room, need := n.Cluster.KindCapacity(), c.spec.Nodes.Len(); n.Cluster.CIDR.IsValid() && need > room && need <= MaxNodes {
		c.add("networks.cluster.cidr", fmt.Sprintf("%s has room for %d nodes of the substrate kind, and the lab has %d: use a larger network, such as a /22", n.Cluster.CIDR, room, need), "")
	}
	if pool := n.Cluster.KindPool(); pool.IsValid() && pool.Contains(n.Cluster.LoadBalancer) {
		c.add("networks.cluster.loadBalancer", fmt.Sprintf("%s is in %s, out of which Docker gives the nodes their addresses; choose another", n.Cluster.LoadBalancer, pool), "")
	}
	if b := c.spec.TPM.Backend; b == BackendSimulator {
		c.add("tpm.backend", "\"simulator\" is not there for the substrate kind: its TPMs are swtpm in containers", "auto, swtpm")
	}
	for i, node := range c.spec.Nodes.List {
		if node.TPM.Backend == BackendSimulator {
			c.add(fmt.Sprintf("nodes[%d].tpm.backend", i), "\"simulator\" is not there for the substrate kind: its TPMs are swtpm in containers", "auto, swtpm")
		}
		c.labels(node, fmt.Sprintf("nodes[%d].labels", i))
		c.mounts(node, fmt.Sprintf("nodes[%d].mounts", i))
	}
}

// KindPool is the second quarter of the network: out of it Docker gives the nodes of a kind cluster their addresses. It is invalid for a
// network that is not IPv4.
func (n ClusterNetwork) KindPool() netip.Prefix {
	if !n.CIDR.IsValid() || !n.CIDR.Addr().Is4() || n.CIDR.Bits() > 30 {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(nthAddress(n.CIDR, 1<<(32-n.CIDR.Bits()-2)), n.CIDR.Bits()+2)
}

// KindCapacity is how many workers fit into the network of a kind cluster: its nodes have the addresses of
// KindPool, and one of them is the control plane. It is 0 for a network that is not IPv4.
func (n ClusterNetwork) KindCapacity() int {
	if !n.KindPool().IsValid() {
		return 0
	}
	return 1<<(32-n.KindPool().Bits()) - 1
}

// kubernetesRange checks one of Kubernetes' own ranges: at least large enough for a few nodes or services.
func (c *checker) kubernetesRange(p netip.Prefix, where string, smallest int) bool {
	switch {
	case !p.Addr().Is4():
		c.add(where, fmt.Sprintf("%s is not an IPv4 network", p), "an IPv4 network")
	case p != p.Masked():
		c.add(where, fmt.Sprintf("%s is an address inside of a network; the network is %s", p, p.Masked()), p.Masked().String())
	case p.Bits() < largestBits || p.Bits() > smallest:
		c.add(where, fmt.Sprintf("%s is not of a size that fits: /%d to /%d", p, largestBits, smallest), fmt.Sprintf("/%d to /%d", largestBits, smallest))
	case within(p, benchmarkRange):
		return true
	case !slices.ContainsFunc(otherRanges, func(r netip.Prefix) bool { return within(p, r) }):
		c.add(where, fmt.Sprintf("%s holds public addresses, which belong to somebody; use a part of %s", p, benchmarkRange), benchmarkRange.String())
	case !c.spec.Networks.AllowOtherRanges:
		c.add(where, fmt.Sprintf("%s is outside of %s, the range set apart for labs; use a part of that, or set networks.allowOtherRanges: true", p, benchmarkRange), benchmarkRange.String())
	default:
		return true
	}
	return false
}

// A label's key and value, as Kubernetes has them.
var (
	labelPrefix = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	labelName   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
)

// maxLabelPrefix is how long a label's prefix may be, in characters.
const maxLabelPrefix = 253

// kubeletLabels are those of Kubernetes' own that a kubelet may give its node.
var kubeletLabels = []string{"topology.kubernetes.io/region", "topology.kubernetes.io/zone"}

// labels checks what the kubelet would refuse, and so never start.
func (c *checker) labels(n Node, where string) {
	for _, key := range slices.Sorted(maps.Keys(n.Labels)) {
		prefix, name, ok := strings.Cut(key, "/")
		if !ok {
			prefix, name = "", key
		}
		switch {
		case ok && (!labelPrefix.MatchString(prefix) || len(prefix) > maxLabelPrefix) || !labelName.MatchString(name):
			c.add(where, fmt.Sprintf("%s is no label's key: up to 63 letters, digits, dots, hyphens and underscores, after a domain and a slash or not", quote(key)), "")
		case prefix == "keylab.dev":
			c.add(where, fmt.Sprintf("%s is one of the lab's own; choose another", quote(key)), "")
		case kubernetesOwn(prefix) && !slices.Contains(kubeletLabels, key):
			c.add(where, fmt.Sprintf("%s is one of Kubernetes' own, which a node may not give itself; choose another, or node.kubernetes.io/…", quote(key)), "")
		}
		if value := n.Labels[key]; value != "" && !labelName.MatchString(value) {
			c.add(where, fmt.Sprintf("%s is no label's value, of %s: up to 63 letters, digits, dots, hyphens and underscores", quote(value), key), "")
		}
	}
}

// kubernetesOwn tells whether labels with a prefix are for Kubernetes itself to give.
func kubernetesOwn(prefix string) bool {
	under := func(domain string) bool { return prefix == domain || strings.HasSuffix(prefix, "."+domain) }
	return (under("kubernetes.io") || under("k8s.io")) && !under("node.kubernetes.io") && !under("kubelet.kubernetes.io")
}

// ownPaths are those that a node has from the lab.
var ownPaths = []string{"/var/lib/keylab", "/usr/local/bin/keylab", "/proc", "/sys", "/dev"}

func (c *checker) mounts(n Node, where string) {
	seen := map[string]bool{}
	for i, m := range n.Mounts {
		at := fmt.Sprintf("%s[%d].containerPath", where, i)
		clean := path.Clean(m.ContainerPath)
		for _, own := range ownPaths {
			if clean == own || strings.HasPrefix(clean, own+"/") || clean == "/" {
				c.add(at, fmt.Sprintf("%s is the lab's own on every node; choose another", quote(m.ContainerPath)), "")
				break
			}
		}
		if seen[clean] {
			c.add(at, fmt.Sprintf("%s is mounted twice", quote(m.ContainerPath)), "")
		}
		seen[clean] = true
	}
}

// onlyKind finds what is set for a cluster in a lab that has none.
func (c *checker) onlyKind() {
	s := c.spec
	say := func(path string) {
		c.add(path, fmt.Sprintf("is for the substrate kind; this lab's substrate is %s", s.Substrate), "")
	}
	if s.Kubernetes != (Kubernetes{}) {
		say("kubernetes")
	}
	if s.Ingress != (Ingress{}) {
		say("ingress")
	}
	if s.Images != (Images{}) {
		say("images")
	}
	for i, n := range s.Nodes.List {
		if len(n.Labels) > 0 {
			say(fmt.Sprintf("nodes[%d].labels", i))
		}
		if len(n.Mounts) > 0 {
			say(fmt.Sprintf("nodes[%d].mounts", i))
		}
		if n.Agent.Kind == AgentImage {
			say(fmt.Sprintf("nodes[%d].agent.kind", i))
		}
	}
	if s.Agent.Kind == AgentImage {
		say("agent.kind")
	}
}

// agentImages checks that an image is there where the kind asks for one, and nowhere else.
func (c *checker) agentImages() {
	lab := c.spec.Agent
	const missing = "is missing: the agent kind image needs the name of one"
	if lab.Kind == AgentImage && lab.Image == "" && (c.spec.Nodes.List == nil || slices.ContainsFunc(c.spec.Nodes.List, func(n Node) bool {
		return n.Agent.Kind == "" && n.Agent.Image == ""
	})) {
		c.add("agent.image", missing, "")
	}
	used := lab.Kind == AgentImage
	for i, n := range c.spec.Nodes.List {
		kind := n.Agent.Kind
		if kind == "" {
			kind = lab.Kind
		}
		where := fmt.Sprintf("nodes[%d].agent.image", i)
		switch {
		case kind == AgentImage:
			used = true
			if n.Agent.Kind == AgentImage && n.Agent.Image == "" && lab.Image == "" {
				c.add(where, missing, "")
			}
		case n.Agent.Image != "":
			c.add(where, fmt.Sprintf("is for the agent kind image only; this node's kind is %s", kind), "")
		}
	}
	if lab.Image != "" && !used {
		c.add("agent.image", fmt.Sprintf("is for the agent kind image only; the kind is %s", lab.Kind), "")
	}
}
