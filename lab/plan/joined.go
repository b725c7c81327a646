package plan

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"keylab.dev/keylab/lab/spec"
)

// Join is the plan of the running lab with one more node, which s, the lab's specification with that node, describes: it gets the next number and the first
// address that nobody has and that is not taken otherwise. Nothing else changes: Serves tells whether something would have to. On Kubernetes taken has the
// addresses that the others really got, and this one is no guess.
func (p Plan) Join(s spec.Spec, name string, taken ...netip.Addr) (Plan, error) {
	all := effectiveNodes(s)
	i := slices.IndexFunc(all, func(n Node) bool { return n.Name == name })
	if i < 0 {
		return p, fmt.Errorf("the specification has no node %q", name)
	}
	if h, there := p.Host(name); there {
		return p, fmt.Errorf("the lab has a host %q already, at %s", name, h.Address())
	}
	next := p.own()
	network := p.Network(Cluster)
	cluster, first := network.Prefix, offset(network.Prefix, offsetNodes)
	b := builder{plan: &next, services: p.Network(Services).Prefix, cluster: cluster, pool: network.Pool, taken: map[netip.Addr]bool{}}
	if network.Pool.IsValid() {
		first = network.Pool.Addr()
	}
	for _, a := range taken {
		b.taken[a] = true
	}
	number := 0
	for _, h := range p.Hosts {
		for _, i := range h.Interfaces {
			b.taken[i.Address] = true
		}
	}
	for _, n := range p.Nodes {
		number = max(number, n.Number)
	}
	number++
	address, err := b.node(all[i], number, first, mustAddress(p, ClusterDNS))
	if err != nil {
		return p, err
	}
	if p.Kubernetes != nil {
		b.worker(number)
	}
	next.DNS.Records[p.HostName(name)] = address
	next.Steps = steps(next)
	return next, nil
}

// Serves tells whether the services and the CAs, which were made for p, do for a plan with other nodes too, and else for what they do not.
func (p Plan) Serves(next Plan) error {
	switch {
	case next.EKCA.Stranger && !p.EKCA.Stranger:
		return errors.New("an EK certificate is to come from a stranger, and the lab has no stranger's CA")
	case next.MeasuresBoot() && !p.MeasuresBoot():
		return errors.New("a node measures its boot, and the verifier is not configured for that")
	case len(next.AcceptedSigning()) > len(p.AcceptedSigning()), len(next.AcceptedHashes()) > len(p.AcceptedHashes()):
		return errors.New("an agent signs in a way that no agent did when the verifier was configured: it would not accept it")
	}
	return nil
}

// AcceptedSigning are the signature schemes of AKs that the verifier is to accept: with those of the plan's agents, Keylime's own defaults, which lack ECDSA.
// nil: the defaults alone.
func (p Plan) AcceptedSigning() []string {
	if slices.ContainsFunc(p.Nodes, func(n Node) bool { return n.Agent.AKAlgorithm == string(spec.AKECDSA) }) {
		return []string{"ecschnorr", "rsassa", "ecdsa"}
	}
	return nil
}

// AcceptedHashes are the hash algorithms that the verifier is to accept: with those of the plan's agents, Keylime's own defaults, which lack SHA-1. nil: the
// defaults alone.
func (p Plan) AcceptedHashes() []string {
	if slices.ContainsFunc(p.Nodes, func(n Node) bool { return n.Agent.HashAlgorithm == string(spec.HashSHA1) }) {
		return []string{"sha512", "sha384", "sha256", "sha1"}
	}
	return nil
}

// Leave is the plan of the running lab without one of its nodes. The others keep numbers and addresses.
func (p Plan) Leave(name string) (Plan, error) {
	if _, there := p.Node(name); !there {
		return p, fmt.Errorf("the lab has no node %q; it has %s", name, p.NodeNames())
	}
	next := p.own()
	next.Nodes = slices.DeleteFunc(next.Nodes, func(n Node) bool { return n.Name == name })
	next.Hosts = slices.DeleteFunc(next.Hosts, func(h Host) bool { return h.Name == name })
	delete(next.DNS.Records, p.HostName(name))
	next.Steps = steps(next)
	return next, nil
}

// WithAgent is the plan of the running lab with the agent that s, the lab's specification, has on one of its nodes. All else is as it was.
func (p Plan) WithAgent(s spec.Spec, name string) (Plan, error) {
	all := effectiveNodes(s)
	i := slices.IndexFunc(all, func(n Node) bool { return n.Name == name })
	j := slices.IndexFunc(p.Nodes, func(n Node) bool { return n.Name == name })
	if i < 0 || j < 0 {
		return p, fmt.Errorf("the lab has no node %q; it has %s", name, p.NodeNames())
	}
	next := p.own()
	next.Nodes[j].Agent = all[i].Agent
	next.Steps = steps(next)
	return next, nil
}

// own is a copy whose nodes, hosts and names can be changed.
func (p Plan) own() Plan {
	p.Nodes, p.Hosts, p.DNS.Records = slices.Clone(p.Nodes), slices.Clone(p.Hosts), maps.Clone(p.DNS.Records)
	return p
}

// FreeNodeName is a name for one more node: node- and the first number after those that names of this form have.
func (p Plan) FreeNodeName() string {
	last := 0
	for _, n := range p.Nodes {
		if digits, ok := strings.CutPrefix(n.Name, "node-"); ok {
			if number, err := strconv.Atoi(digits); err == nil {
				last = max(last, number)
			}
		}
	}
	return fmt.Sprintf("node-%d", last+1)
}

func mustAddress(p Plan, host string) netip.Addr {
	h, _ := p.Host(host)
	return h.Address()
}
