package plan

import (
	"fmt"
	"net/netip"

	"keylab.dev/keylab/lab/spec"
)

// Offsets of the lab's own hosts in their network.
const (
	offsetRouter    = 2
	offsetRegistrar = 11
	offsetVerifier  = 12
	offsetTenant    = 13
	offsetDNS       = 53
	offsetNodes     = 11 // the first node; later ones count up past the addresses that are taken
)

// Make plans the lab of a valid specification with its defaults set (spec.Decode, spec.Default).
func Make(s spec.Spec) (Plan, error) {
	services, cluster := s.Networks.Services.CIDR.Masked(), s.Networks.Cluster.CIDR.Masked()
	p := Plan{
		Lab:       s.Name,
		Substrate: string(s.Substrate),
		Domain:    s.Networks.Domain,
		Networks:  []Network{{Name: Services, Prefix: services}, {Name: Cluster, Prefix: cluster}},
		EKCA:      planEKCA(s.EKCA),
		Ready:     Duration(s.Timeouts.Ready),
	}
	b := builder{plan: &p, services: services, cluster: cluster, taken: map[netip.Addr]bool{}}
	b.router()
	serviceDNS := offset(services, offsetDNS)
	clusterDNS := offset(cluster, offsetDNS)
	b.host(Registrar, Services, offset(services, offsetRegistrar), serviceDNS)
	b.host(Verifier, Services, offset(services, offsetVerifier), serviceDNS)
	b.host(Tenant, Services, offset(services, offsetTenant), serviceDNS)
	b.host(DNS, Services, serviceDNS, serviceDNS)
	b.host(ClusterDNS, Cluster, clusterDNS, clusterDNS)
	ingress := s.Networks.Cluster.LoadBalancer
	b.host(Ingress, Cluster, ingress, clusterDNS)
	if s.Substrate == spec.SubstrateKind {
		p.Hosts[len(p.Hosts)-1].Interfaces[0].MAC = "" // the address is announced by whichever node MetalLB chose
	}

	registrar := offset(services, offsetRegistrar)
	p.Keylime = Keylime{
		Version: s.Keylime.Version, Mode: string(s.Keylime.Mode),
		RequireEKCert:   s.Keylime.RequireEKCert == nil || *s.Keylime.RequireEKCert,
		QuoteInterval:   Duration(s.Keylime.QuoteInterval),
		VerifierWorkers: s.Keylime.VerifierWorkers, RegistrarWorkers: s.Keylime.RegistrarWorkers,
		Registrar:    netip.AddrPortFrom(registrar, RegistrarPort),
		RegistrarTLS: netip.AddrPortFrom(registrar, RegistrarTLSPort),
		Verifier:     netip.AddrPortFrom(offset(services, offsetVerifier), VerifierPort),
		Ingress:      netip.AddrPortFrom(ingress, IngressPort),
		Certificates: certificates(s.Name, registrar, offset(services, offsetVerifier)),
		Revocation:   planRevocation(s.Keylime.Revocation, offset(services, offsetTenant)),
		Options:      s.Keylime.Options,
	}

	var err error
	next := offset(cluster, offsetNodes)
	if s.Substrate == spec.SubstrateKind {
		p.Kubernetes = kubernetes(s)
		next = b.setPool(s.Networks.Cluster.KindPool(), p.Kubernetes.ControlPlane, clusterDNS)
	}
	for i, n := range effectiveNodes(s) {
		if next, err = b.node(n, i+1, next, clusterDNS); err != nil {
			return Plan{}, err
		}
		if p.Kubernetes != nil {
			b.worker(i + 1)
		}
	}
	if p.MeasuresBoot() {
		p.Keylime.Options = measurementOptions(p.Keylime.Options, s.MeasuredBoot.Policy)
	}
	rules, err := b.rules(s.Networks.Allow)
	if err != nil {
		return Plan{}, err
	}
	p.Rules = rules
	p.DNS = Zone{Domain: p.Domain, Wildcard: ingress, Records: map[string]netip.Addr{}}
	for _, h := range p.Hosts {
		p.DNS.Records[p.HostName(h.Name)] = h.Address()
	}
	p.Steps = steps(p)
	return p, nil
}

// builder gathers hosts and remembers which addresses they took.
type builder struct {
	plan              *Plan
	services, cluster netip.Prefix
	pool              netip.Prefix // out of which nodes have their addresses; invalid: all of cluster
	taken             map[netip.Addr]bool
}

func (b *builder) prefix(network string) netip.Prefix {
	if network == Services {
		return b.services
	}
	return b.cluster
}

// mac is a locally administered address, 02:4b:4c:<network>:<host number>, so that a packet capture reads itself.
func (b *builder) mac(network string, a netip.Addr) string {
	n := 1
	if network == Cluster {
		n = 2
	}
	four := a.As4()
	return fmt.Sprintf("02:4b:4c:%02x:%02x:%02x", n, four[2], four[3])
}

func (b *builder) iface(name, network string, a netip.Addr) Interface {
	b.taken[a] = true
	return Interface{Name: name, Network: network, Address: a, MAC: b.mac(network, a)}
}

// router stands in both networks and is the only host that does.
func (b *builder) router() {
	b.plan.Hosts = append(b.plan.Hosts, Host{
		Name:    Router,
		Forward: true,
		Interfaces: []Interface{
			b.iface("services", Services, offset(b.services, offsetRouter)),
			b.iface("cluster", Cluster, offset(b.cluster, offsetRouter)),
		},
	})
}

// host adds a host whose default route is the router's address in its network.
func (b *builder) host(name, network string, a, resolver netip.Addr) {
	b.plan.Hosts = append(b.plan.Hosts, Host{
		Name:       name,
		Interfaces: []Interface{b.iface("eth0", network, a)},
		Routes:     []Route{{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: offset(b.prefix(network), offsetRouter)}},
		Resolver:   resolver,
	})
}

// node plans a node, with the first address from that one on that nobody has, and returns that address.
func (b *builder) node(n Node, number int, from, resolver netip.Addr) (netip.Addr, error) {
	for b.taken[from] {
		from = from.Next()
	}
	if !b.cluster.Contains(from) || from == lastAddr(b.cluster) || b.pool.IsValid() && !b.pool.Contains(from) {
		return from, fmt.Errorf("networks.cluster.cidr: %s has no address left for node %q, number %d", b.cluster, n.Name, number)
	}
	b.host(n.Name, Cluster, from, resolver)
	n.Number, n.Address = number, from
	n.Hostname = hostnamePattern(n.Agent.UUID, b.plan.Domain)
	b.plan.EKCA.Stranger = b.plan.EKCA.Stranger || n.EK.Stranger
	b.plan.Nodes = append(b.plan.Nodes, n)
	return from, nil
}

// certificates are those of the services: the CA's own first.
func certificates(lab string, registrar, verifier netip.Addr) []Certificate {
	return []Certificate{
		{CommonName: "keylab " + lab + " cv_ca"},
		{CommonName: Registrar, Names: []string{Registrar + "." + lab + ".test"}, Addresses: []netip.Addr{registrar}},
		{CommonName: Verifier, Names: []string{Verifier + "." + lab + ".test"}, Addresses: []netip.Addr{verifier}},
		{CommonName: Tenant},
		{CommonName: "verifier client"},
	}
}

// rules are the flows of the design, then the user's own.
func (b *builder) rules(extra []spec.Flow) ([]Rule, error) {
	registrar, _ := b.end(Registrar)
	ingress, _ := b.end(Ingress)
	verifier, _ := b.end(Verifier)
	rules := []Rule{
		{Name: "cluster-to-registrar", From: b.cluster, To: registrar, Protocol: "tcp", Port: RegistrarPort},
		{Name: "cluster-to-registrar-tls", From: b.cluster, To: registrar, Protocol: "tcp", Port: RegistrarTLSPort},
	}
	if b.plan.Keylime.Push() {
		rules = append(rules, Rule{Name: "cluster-to-verifier", From: b.cluster, To: verifier, Protocol: "tcp", Port: VerifierPort})
	} else {
		rules = append(rules, Rule{Name: "services-to-ingress", From: b.services, To: ingress, Protocol: "tcp", Port: IngressPort})
	}
	for i, f := range extra {
		from, err := b.end(f.From)
		if err != nil {
			return nil, fmt.Errorf("networks.allow[%d].from: %w", i, err)
		}
		to, err := b.end(f.To)
		if err != nil {
			return nil, fmt.Errorf("networks.allow[%d].to: %w", i, err)
		}
		name := f.Name
		if name == "" {
			name = fmt.Sprintf("allow-%d", i+1)
		}
		rules = append(rules, Rule{Name: name, From: from, To: to, Protocol: string(f.Protocol), Port: uint16(f.Port), Extra: true})
	}
	return rules, nil
}

// end is one side of a flow: a network's prefix or a host's address.
func (b *builder) end(name string) (netip.Prefix, error) {
	switch name {
	case Services:
		return b.services, nil
	case Cluster:
		return b.cluster, nil
	}
	h, ok := b.plan.Host(name)
	if !ok {
		return netip.Prefix{}, fmt.Errorf("the lab has no host %q", name)
	}
	return netip.PrefixFrom(h.Address(), 32), nil
}

// offset is the n-th address of a network.
func offset(p netip.Prefix, n int) netip.Addr {
	four := p.Masked().Addr().As4()
	v := uint32(four[0])<<24 | uint32(four[1])<<16 | uint32(four[2])<<8 | uint32(four[3])
	v += uint32(n)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// lastAddr is the broadcast address of a network.
func lastAddr(p netip.Prefix) netip.Addr { return offset(p, 1<<(32-p.Bits())-1) }

// hostnamePattern is a contact address in which a UUID that is not known yet stands as a placeholder.
func hostnamePattern(uuid, domain string) string {
	switch uuid {
	case spec.UUIDHashEK:
		return "<uuid0-31>.<uuid32-63>." + domain
	case spec.UUIDGenerate:
		return "<uuid>." + domain
	}
	return ContactHostname(uuid, domain)
}
