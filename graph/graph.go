package graph

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/report"
)

// Graph is a lab as it is drawn. Names are unique among hosts and nodes.
type Graph struct {
	Lab       string
	Domain    string // of the agents' names
	Substrate string
	Mode      string // pull or push
	Keylime   string // its version
	State     string // of a running lab; empty: only the plan is drawn
	Services  Network
	Cluster   Network
	Router    Host
	Ingress   *Host  // nil: there is none
	Hosts     []Host // of the services network
	Nodes     []Node
	CAs       []CA
	Flows     []Flow
}

// Network is one of the two networks.
type Network struct {
	Name, Prefix string
	Note         string // e.g. of a Kubernetes cluster
}

// Host is a part of the lab that is no node.
type Host struct {
	Name   string
	About  []string // addresses and ports, or what it is, a line each
	State  string   // running, starting, dead; empty: unknown
	Detail string   // of a dead one: how it ended
}

// Node is one attested machine.
type Node struct {
	Name         string
	Address      string // empty: not known before the lab runs
	Agent        string // kind of its agent
	EK           string // algorithm of the EK
	CA           string // name of the CA that certified the EK; empty: none did
	Note         string // what is special about the EK certificate
	State        string // as `keylab status` names it; empty: unknown
	Detail       string
	Attestations int
}

// CA is a CA that certified EKs.
type CA struct {
	Name    string
	Chain   []string // common names, root first
	Trusted bool     // in the tpm_cert_store
}

// Flow is what the router lets pass, in the direction in which connections are opened.
type Flow struct {
	From, To string // names of a network, host or node; or an address range
	Protocol string
	Ports    []uint16 // empty: any
	Extra    bool     // the specification asked for it
}

// Names of the CAs of a plan.
const (
	LabCA      = "EK CA"
	StrangerCA = "stranger's CA"
)

// Label is the protocol and ports.
func (f Flow) Label() string {
	if len(f.Ports) == 0 {
		return f.Protocol
	}
	var ports []string
	for _, p := range f.Ports {
		ports = append(ports, fmt.Sprint(p))
	}
	return f.Protocol + " " + strings.Join(ports, ", ")
}

// Push tells whether agents open the connections, and so nothing comes by the ingress.
func (g Graph) Push() bool { return g.Mode == "push" }

// Of is the graph of a plan, with the states of the running lab if status is not nil.
func Of(p plan.Plan, status *control.Status) Graph {
	k := p.Keylime
	g := Graph{
		Lab: p.Lab, Domain: p.Domain, Substrate: p.Substrate, Mode: k.Mode, Keylime: k.Version,
		Services: network(p, plan.Services), Cluster: network(p, plan.Cluster),
		Hosts: []Host{
			{Name: plan.Registrar, About: []string{fmt.Sprintf("%s :%d :%d", k.Registrar.Addr(), k.Registrar.Port(), k.RegistrarTLS.Port())}},
			{Name: plan.Verifier, About: []string{fmt.Sprintf("%s :%d", k.Verifier.Addr(), k.Verifier.Port())}},
			{Name: plan.Tenant, About: address(p, plan.Tenant)},
			{Name: plan.DNS, About: address(p, plan.DNS)},
		},
		Router: Host{Name: plan.Router},
		CAs:    []CA{{Name: LabCA, Chain: commonNames(p.EKCA.Subjects), Trusted: true}},
	}
	if h, ok := p.Host(plan.Router); ok {
		for _, i := range h.Interfaces {
			g.Router.About = append(g.Router.About, i.Address.String())
		}
	}
	if p.HasIngress() {
		g.Ingress = &Host{Name: plan.Ingress, About: []string{k.Ingress.Addr().String(), "TLS by SNI,", "passed through"}}
		if p.Kubernetes != nil {
			g.Ingress.About = []string{k.Ingress.Addr().String(), "LoadBalancer,", "TLS by SNI,", "passed through"}
		}
	}
	if c := p.Kubernetes; c != nil {
		g.Cluster.Note = fmt.Sprintf("kind cluster %s, Kubernetes %s", c.Cluster, c.Version)
	}
	if p.EKCA.Stranger {
		g.CAs = append(g.CAs, CA{Name: StrangerCA})
	}
	for _, n := range p.Nodes {
		g.Nodes = append(g.Nodes, node(p, n))
	}
	g.Flows = flows(p)
	g.live(status)
	return g
}

func network(p plan.Plan, name string) Network {
	return Network{Name: name, Prefix: p.Network(name).Prefix.String()}
}

func address(p plan.Plan, name string) []string {
	h, ok := p.Host(name)
	if !ok {
		return nil
	}
	return []string{h.Address().String()}
}

// commonNames takes the CN out of subjects as the plan writes them.
func commonNames(subjects []string) []string {
	var out []string
	for _, s := range subjects {
		name, _, _ := strings.Cut(strings.TrimPrefix(s, "CN="), ",O=")
		out = append(out, name)
	}
	return out
}

func node(p plan.Plan, n plan.Node) Node {
	out := Node{Name: n.Name, Address: n.Address.String(), Agent: n.Agent.Kind, EK: n.TPM.EKAlgorithm, CA: LabCA}
	if h, ok := p.Host(n.Name); ok && h.Pooled {
		out.Address = "" // it would be a guess
	}
	switch {
	case n.EK.Absent:
		out.CA, out.Note = "", "no EK certificate"
	case n.EK.Stranger:
		out.CA, out.Note = StrangerCA, "not trusted"
	case n.EK.Expired:
		out.Note = "expired"
	}
	return out
}

// flows are the router's rules; those that differ in their port only are one.
func flows(p plan.Plan) []Flow {
	var out []Flow
	for _, r := range p.Rules {
		f := Flow{From: end(p, r.From), To: end(p, r.To), Protocol: r.Protocol, Extra: r.Extra}
		if r.Port != 0 {
			f.Ports = []uint16{r.Port}
		}
		same := slices.IndexFunc(out, func(o Flow) bool {
			return o.From == f.From && o.To == f.To && o.Protocol == f.Protocol && o.Extra == f.Extra && len(o.Ports) > 0 && len(f.Ports) > 0
		})
		if same >= 0 {
			out[same].Ports = append(out[same].Ports, f.Ports...)
			continue
		}
		out = append(out, f)
	}
	return out
}

// end names one side of a rule.
func end(p plan.Plan, prefix netip.Prefix) string {
	for _, n := range p.Networks {
		if n.Prefix == prefix {
			return n.Name
		}
	}
	if prefix.IsSingleIP() {
		for _, h := range p.Hosts {
			for _, i := range h.Interfaces {
				if i.Address == prefix.Addr() {
					return h.Name
				}
			}
		}
	}
	return prefix.String()
}

// Certify has the graph show which CA has certified which EK by what the lab's CAs have issued, rather than by its plan: a running lab can be
// given other CAs, and nodes other certificates. Of a node's certificates the last one counts.
func (g *Graph) Certify(certificates []report.Certificate) {
	last := map[string]report.Certificate{}
	var cas []CA
	for _, c := range certificates {
		at := slices.IndexFunc(cas, func(o CA) bool { return o.Name == c.CA })
		if at < 0 {
			cas, at = append(cas, CA{Name: c.CA}), len(cas)
		}
		if c.Kind != ekCertificate {
			cas[at].Chain = append(cas[at].Chain, c.Subject)
			cas[at].Trusted = cas[at].Trusted || c.Trusted
			continue
		}
		if old, ok := last[c.Subject]; !ok || !c.Issued.Before(old.Issued) {
			last[c.Subject] = c
		}
	}
	if len(cas) == 0 {
		return
	}
	names := map[string]string{}
	several := len(slices.DeleteFunc(slices.Clone(cas), func(c CA) bool { return c.Name == authority.Stranger })) > 1
	for i, c := range cas {
		switch {
		case c.Name == authority.Stranger:
			cas[i].Name, cas[i].Chain = StrangerCA, nil
		case several:
			cas[i].Name = LabCA + " " + c.Name
		default:
			cas[i].Name = LabCA
		}
		names[c.Name] = cas[i].Name
	}
	g.CAs = cas
	for i, n := range g.Nodes {
		c, ok := last[n.Name]
		if !ok || n.CA == "" {
			continue
		}
		g.Nodes[i].CA = names[c.CA]
		switch {
		case !c.Revoked.IsZero():
			g.Nodes[i].Note = "revoked"
		case g.Nodes[i].CA == StrangerCA:
			g.Nodes[i].Note = "not trusted"
		case c.NotAfter.Before(c.Issued):
			g.Nodes[i].Note = "expired"
		default:
			g.Nodes[i].Note = ""
		}
	}
}

// ekCertificate is the kind of certificate that is in a TPM.
const ekCertificate = "EK"

// live puts the states of the running lab in.
func (g *Graph) live(s *control.Status) {
	if s == nil {
		return
	}
	g.State = cmp.Or(string(s.State), string(control.Running))
	for _, c := range s.Components {
		for _, h := range g.all() {
			if h.Name == c.Name {
				h.State, h.Detail = c.State, c.Detail
			}
		}
	}
	for _, n := range s.Nodes {
		for i := range g.Nodes {
			if g.Nodes[i].Name != n.Name {
				continue
			}
			g.Nodes[i].State, g.Nodes[i].Detail, g.Nodes[i].Attestations = n.State, n.Detail, n.AttestationCount
			g.Nodes[i].Address = cmp.Or(n.Address, g.Nodes[i].Address)
		}
	}
}

// all are all hosts.
func (g *Graph) all() []*Host {
	out := []*Host{&g.Router}
	for i := range g.Hosts {
		out = append(out, &g.Hosts[i])
	}
	if g.Ingress != nil {
		out = append(out, g.Ingress)
	}
	return out
}

// side tells in which network a name is: services or cluster; empty where it is in neither.
func (g Graph) side(name string) string {
	if name == g.Services.Name || slices.ContainsFunc(g.Hosts, func(h Host) bool { return h.Name == name }) {
		return plan.Services
	}
	if name == g.Cluster.Name || g.Ingress != nil && g.Ingress.Name == name || name == plan.Ingress || name == plan.ClusterDNS ||
		slices.ContainsFunc(g.Nodes, func(n Node) bool { return n.Name == name }) {
		return plan.Cluster
	}
	for _, n := range []Network{g.Services, g.Cluster} {
		if outer, err := netip.ParsePrefix(n.Prefix); err == nil {
			if inner, err := netip.ParsePrefix(name); err == nil && outer.Contains(inner.Addr()) {
				return n.Name
			}
		}
	}
	return ""
}
