package netns

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/ask"
	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/verify"
	"keylab.dev/keylab/netlab"
)

// target shows the running lab to package verify.
type target struct{ s *supervisor }

var _ verify.Target = target{}

func (t target) Plan() plan.Plan                     { return t.s.planNow() }
func (t target) EKCAs() ([]authority.CA, error)      { return t.s.cas.List() }
func (t target) CertStore() string                   { return t.s.dir.CertStore() }
func (t target) Registrar() *keylime.RegistrarClient { return t.s.registrar }
func (t target) Verifier() *keylime.VerifierClient   { return t.s.verifier }
func (t target) ClientTLS() *tls.Config              { return t.s.configured.PKI.ClientTLS() }

func (t target) Nodes() []verify.Node {
	all := t.s.allNodes()
	nodes := make([]verify.Node, len(all))
	for i, n := range all {
		nodes[i] = n.facts()
	}
	return nodes
}

var errNoAgent = errors.New("no agent was started")

// facts is what the lab knows of the node.
func (n *node) facts() verify.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	v := verify.Node{Node: n.plannedLocked(), UUID: n.uuid, Hostname: n.hostname, Enrolled: n.enrolled, TPM: n.readTPM, FindPayload: n.payload}
	v.PCRs = n.measured.PCRs
	v.IMAList = func(context.Context) (string, error) {
		text, _, err := n.listFrom(0)
		return text, err
	}
	if known, err := fleet.WithAllowed(n.s.dir, n.plannedLocked()); err == nil { // else the policy is not as it should be, which is said of it
		v.Node = known
	}
	v.Served = func(string) (int, error) { return 0, errNoAgent }
	v.Arrived = func() (uint64, error) { return 0, errNoAgent }
	if n.agent != nil {
		v.Served, v.Arrived = n.agent.served, n.arrivals.Read
		v.AgentCertificate = n.agent.certificate()
	}
	if f := n.faultLocked(); f != nil {
		v.Fault = f.State + ": " + f.Detail
	}
	return v
}

// readTPM reads EK and EK certificate out of the TPM.
func (n *node) readTPM(ctx context.Context) (verify.TPMIdentity, error) {
	n.mu.Lock()
	tpm := n.tpm
	n.mu.Unlock()
	if tpm == nil {
		return verify.TPMIdentity{}, fmt.Errorf("the TPM of %s is off", n.Name)
	}
	id, err := tpm.Identity(ctx)
	if err != nil {
		return verify.TPMIdentity{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(id.Public)
	if err != nil {
		return verify.TPMIdentity{}, fmt.Errorf("encode the EK of %s: %w", n.Name, err)
	}
	return verify.TPMIdentity{EKPublic: id.TPM2BPublic, EKSPKI: spki, Certificate: id.Certificate}, nil
}

// arpTimeout is how long an ARP request may stay without an answer; one on the same bridge comes within a millisecond.
const arpTimeout = 500 * time.Millisecond

// probeTimeout bounds a probe whose context has no deadline: one that is expected to be answered.
const probeTimeout = 10 * time.Second

func (t target) Probe(ctx context.Context, from, protocol string, to netip.AddrPort) netlab.ProbeResult {
	ns := t.s.network.Host(from)
	timeout := probeTimeout
	if d, ok := ctx.Deadline(); ok {
		timeout = time.Until(d)
		// The probe reports the time-out; a context that ends with it would make that an error of the probe itself.
		ctx = context.WithoutCancel(ctx)
	}
	switch protocol {
	case "tcp":
		return netlab.ProbeTCP(ctx, ns, to, timeout)
	case "udp":
		return netlab.ProbeUDP(ctx, ns, to, dnsQuestion(t.s.plan.Domain), timeout)
	case "icmp":
		return netlab.ProbeICMP(ctx, ns, to.Addr(), timeout)
	}
	return netlab.ProbeResult{Outcome: netlab.OutcomeFailed, Err: fmt.Errorf("no probe for protocol %q", protocol)}
}

// dnsQuestion is a packet that a DNS server answers: the only service of a lab that speaks UDP.
func dnsQuestion(domain string) []byte {
	packet, err := new(dns.Msg).SetQuestion(dns.Fqdn("probe."+domain), dns.TypeA).Pack()
	if err != nil {
		return nil
	}
	return packet
}

func (t target) SharedSegment(ctx context.Context, a, b string) (bool, string, error) {
	segment, err := t.s.network.SharedSegment(ctx, a, b, arpTimeout)
	return segment.Shared, strings.Join(segment.Evidence, "; "), err
}

func (t target) RouterCounters(context.Context) (map[string]uint64, error) {
	list, err := t.s.router.Counters()
	if err != nil {
		return nil, err
	}
	counters := map[string]uint64{}
	for _, c := range list {
		counters[c.Name] = c.Packets
	}
	return counters, nil
}

func (t target) Ingress(context.Context) (verify.IngressCounts, error) {
	stats := t.s.ingress.Stats()
	counts := verify.IngressCounts{
		Forwarded: map[string]uint64{},
		Refused:   stats.Refused[netlab.ReasonNoSNI] + stats.Refused[netlab.ReasonUnknownName],
	}
	for host, s := range stats.ByHost {
		counts.Forwarded[host] = s.Connections
	}
	return counts, nil
}

func (t target) Resolve(ctx context.Context, from, name string) ([]netip.Addr, error) {
	host := mustHost(t.s.planNow(), from)
	ns := t.s.network.Host(from)
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return ns.DialContext(ctx, network, join(host.Resolver, 53))
	}}
	return r.LookupNetIP(ctx, "ip4", name+".")
}

func (t target) Dial(ctx context.Context, from string, to netip.AddrPort) (net.Conn, error) {
	return t.s.network.Host(from).DialContext(ctx, "tcp", to.String())
}

// HTTP implements control.Lab.
func (s *supervisor) HTTP(ctx context.Context, r control.HTTPRequest) (control.HTTPAnswer, error) {
	if err := s.mustBeUp(); err != nil {
		return control.HTTPAnswer{}, err
	}
	return ask.HTTP(ctx, target{s}, r)
}

// Network implements control.Lab.
func (s *supervisor) Network(context.Context) (control.Network, error) {
	s.mu.Lock()
	router, ingress, network, servers := s.router, s.ingress, s.network, slices.Clone(s.dns)
	s.mu.Unlock()
	if router == nil || ingress == nil {
		return control.Network{}, errors.New("the lab's network is still being built")
	}
	hosts, err := network.Inspect()
	if err != nil {
		return control.Network{}, err
	}
	counters, err := router.Counters()
	if err != nil {
		return control.Network{}, err
	}
	rules, _ := router.Rules()
	n := control.Network{Inspection: hosts, Rules: rules, Counters: counters, Ingress: ingress.Stats(), Routes: ingress.Routes(), Arrivals: map[string]uint64{}, DNS: map[string]uint64{}}
	for _, node := range s.allNodes() {
		node.mu.Lock()
		arrivals := node.arrivals
		node.mu.Unlock()
		if arrivals == nil {
			continue
		}
		if n.Arrivals[join(node.Address, node.Agent.Port)], err = arrivals.Read(); err != nil {
			return control.Network{}, err
		}
	}
	for _, d := range servers {
		for q, count := range d.Queries() {
			n.DNS[q.Code] += count
		}
	}
	return n, nil
}
