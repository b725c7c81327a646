package kind

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/miekg/dns"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keylab.dev/keylab/cluster/sniproxy"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/ask"
	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/measure"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/verify"
	"keylab.dev/keylab/netlab"
	"keylab.dev/keylab/report"
)

// Verify proves the lab's claims.
func (l *Lab) Verify(ctx context.Context) (report.Result, error) {
	var r report.Result
	err := l.withTarget(ctx, func(t *target) error {
		r = verify.Run(ctx, t, verify.Options{})
		return nil
	})
	return r, err
}

// HTTP implements the lab's side of an expectation about an HTTP status.
func (l *Lab) HTTP(ctx context.Context, r control.HTTPRequest) (a control.HTTPAnswer, err error) {
	err = l.withTarget(ctx, func(t *target) (err error) {
		a, err = ask.HTTP(ctx, t, r)
		return err
	})
	return a, err
}

// target shows the lab to package verify.
type target struct {
	l         *Lab
	plan      plan.Plan
	config    *keylime.Configured
	registrar *keylime.RegistrarClient
	verifier  *keylime.VerifierClient
	pods      map[string]netip.Prefix // by node: the addresses of its pods
	faults    map[string]*fleet.Fault
}

var _ verify.Target = &target{}

func (l *Lab) target(ctx context.Context) (*target, error) {
	t := &target{l: l, plan: l.plan(), pods: map[string]netip.Prefix{}}
	var err error
	if t.config, err = l.keylime(); err != nil {
		return nil, err
	}
	if t.registrar, err = l.registrar(); err != nil {
		return nil, err
	}
	if t.verifier, err = l.verifier(); err != nil {
		return nil, err
	}
	if t.pods, err = l.podRanges(ctx); err != nil {
		return nil, err
	}
	t.faults, err = l.nodeFaults(ctx)
	return t, err
}

// podRanges are the pods' addresses on each node.
func (l *Lab) podRanges(ctx context.Context) (map[string]netip.Prefix, error) {
	k, err := l.cluster()
	if err != nil {
		return nil, err
	}
	list, err := k.typed.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the cluster's nodes: %w", err)
	}
	ranges := map[string]netip.Prefix{}
	for _, n := range list.Items {
		if p, err := netip.ParsePrefix(n.Spec.PodCIDR); err == nil {
			ranges[n.Name] = p
		}
	}
	return ranges, nil
}

func (t *target) Plan() plan.Plan                     { return t.plan }
func (t *target) EKCAs() ([]authority.CA, error)      { return t.l.authorities().List() }
func (t *target) CertStore() string                   { return t.l.dir.CertStore() }
func (t *target) Registrar() *keylime.RegistrarClient { return t.registrar }
func (t *target) Verifier() *keylime.VerifierClient   { return t.verifier }
func (t *target) ClientTLS() *tls.Config              { return t.config.PKI.ClientTLS() }

func (t *target) Nodes() []verify.Node {
	nodes := make([]verify.Node, len(t.plan.Nodes))
	for i, n := range t.plan.Nodes {
		known := t.l.node(n.Name)
		if more, err := fleet.WithAllowed(t.l.dir, n); err == nil { // else the policy is not as it should be, which is said of it
			n = more
		}
		v := verify.Node{Node: n, UUID: known.UUID, Hostname: known.Hostname, Enrolled: known.Enrolled}
		v.AgentCertificate, _ = t.l.agentCertificate(n.Name) // nil: verify says so
		v.TPM = func(ctx context.Context) (verify.TPMIdentity, error) {
			id, err := t.l.tpm(n.Name).Identity(ctx)
			if err != nil {
				return verify.TPMIdentity{}, fmt.Errorf("the TPM of %s: %w", n.Name, err)
			}
			return verify.TPMIdentity{EKPublic: id.EKPublic, EKSPKI: id.EKSPKI, Certificate: id.Certificate}, nil
		}
		v.PCRs = func(ctx context.Context, pcrs ...int) (map[int][]byte, error) {
			return t.l.tpm(n.Name).PCRs(ctx, pcrs...)
		}
		v.IMAList = func(context.Context) (string, error) {
			list, err := os.ReadFile(filepath.Join(t.l.socketDir(n.Name), measure.ListFile))
			return string(list), err
		}
		v.Served = func(nonce string) (int, error) {
			ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
			defer cancel()
			return t.l.served(ctx, n, nonce)
		}
		v.Arrived = func() (uint64, error) {
			ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
			defer cancel()
			return t.l.arrived(ctx, n, t.pods[n.KubernetesName])
		}
		v.FindPayload = func(ctx context.Context) (verify.Payload, error) { return t.l.payload(ctx, n) }
		if f := t.faults[n.Name]; f != nil {
			v.Fault = f.State + ": " + f.Detail
			if f.State == fleet.StateOff { // its log cannot be read, nor can it have answered
				v.Served = func(string) (int, error) { return 0, nil }
				v.FindPayload = func(context.Context) (verify.Payload, error) { return fleet.Payload(t.l.dir, n, nil) }
			}
		}
		nodes[i] = v
	}
	return nodes
}

// arrived counts the connections that the node's kernel has forwarded to the agent's port of its own pods.
func (l *Lab) arrived(ctx context.Context, n plan.Node, pods netip.Prefix) (uint64, error) {
	link, err := l.link(ctx, n.Name)
	if err != nil {
		return 0, err
	}
	return link.Arrivals(ctx, pods, n.Agent.Port)
}

// Time limits of probes: an ARP request on one bridge is answered within a millisecond; probeTimeout is for what is expected to be answered.
const (
	arpTimeout   = 500 * time.Millisecond
	probeTimeout = 10 * time.Second
)

func (t *target) Probe(ctx context.Context, from, protocol string, to netip.AddrPort) netlab.ProbeResult {
	timeout := probeTimeout
	if d, ok := ctx.Deadline(); ok {
		timeout = time.Until(d)
		// The probe itself reports the time-out; the way there and back takes its own time.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), timeout+probeTimeout)
		defer cancel()
	}
	link, err := t.l.link(ctx, from)
	if err != nil {
		return netlab.ProbeResult{Outcome: netlab.OutcomeFailed, Err: err}
	}
	return link.Probe(ctx, protocol, to, dnsQuestion(t.plan.Domain), timeout)
}

// dnsQuestion is a packet that a DNS server answers: the only service of a lab that speaks UDP.
func dnsQuestion(domain string) []byte {
	packet, err := new(dns.Msg).SetQuestion(dns.Fqdn("probe."+domain), dns.TypeA).Pack()
	if err != nil {
		return nil
	}
	return packet
}

// ProbePast implements verify.HostGateway: every Docker network has an address of the machine itself in it. A node can set a route by itself; on the services
// network a container that may is started for it.
func (t *target) ProbePast(ctx context.Context, from string, to netip.AddrPort) (netlab.ProbeResult, netip.Addr, error) {
	host, _ := t.plan.Host(from)
	via := nth(t.plan.Network(host.Interfaces[0].Network).Prefix, hostOffset)
	timeout := probeTimeout
	if d, ok := ctx.Deadline(); ok {
		timeout = time.Until(d)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout+probeTimeout)
	defer cancel()
	if _, ok := t.plan.Node(from); ok {
		link, err := t.l.link(ctx, from)
		if err != nil {
			return netlab.ProbeResult{}, via, err
		}
		return link.ProbeVia(ctx, via, to, timeout), via, nil
	}
	r, err := t.l.probeFromNetwork(ctx, host.Interfaces[0].Network, via, to, timeout)
	return r, via, err
}

// SharedSegment asks with ARP, which no router passes on.
func (t *target) SharedSegment(ctx context.Context, a, b string) (bool, string, error) {
	host, _ := t.plan.Host(b)
	link, err := t.l.link(ctx, a)
	if err != nil {
		return false, "", err
	}
	mac, err := link.ARP(ctx, "eth0", host.Address(), arpTimeout)
	if err != nil {
		return false, "", err
	}
	if mac == nil {
		return false, fmt.Sprintf("nobody answers %s when it asks by ARP for %s", a, host.Address()), nil
	}
	return true, fmt.Sprintf("%s answers %s by ARP for %s", mac, a, host.Address()), nil
}

func (t *target) RouterCounters(ctx context.Context) (map[string]uint64, error) {
	list, err := t.l.router().Counters(ctx)
	if err != nil {
		return nil, err
	}
	counters := map[string]uint64{}
	for _, c := range list {
		counters[c.Name] = c.Packets
	}
	return counters, nil
}

func (t *target) Ingress(ctx context.Context) (verify.IngressCounts, error) {
	s, err := t.l.ingressStats(ctx)
	if err != nil {
		return verify.IngressCounts{}, err
	}
	return verify.IngressCounts{Forwarded: s.Connections, Refused: s.Refused}, nil
}

// ingressStats asks the ingress' controller, from inside its pod.
func (l *Lab) ingressStats(ctx context.Context) (s sniproxy.Stats, err error) {
	return s, l.askIngress(ctx, "/stats", &s)
}

func (l *Lab) askIngress(ctx context.Context, path string, into any) error {
	if !l.planned.OwnIngress() {
		return fmt.Errorf("the ingress of class %s is not keylab's own: it cannot be asked", l.planned.Kubernetes.IngressClass)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return l.dialFrom(plan.Ingress)(ctx, network, address)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:9090"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("ask the ingress: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask the ingress for %s: %s", path, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("read the ingress' answer to %s: %w", path, err)
	}
	return nil
}

func (t *target) Resolve(ctx context.Context, from, name string) ([]netip.Addr, error) {
	host, _ := t.plan.Host(from)
	link, err := t.l.link(ctx, from)
	if err != nil {
		return nil, err
	}
	return link.Resolve(ctx, netip.AddrPortFrom(host.Resolver, 53), strings.TrimSuffix(name, "."))
}

func (t *target) Dial(ctx context.Context, from string, to netip.AddrPort) (net.Conn, error) {
	return t.l.dialFrom(from)(ctx, "tcp", to.String())
}
