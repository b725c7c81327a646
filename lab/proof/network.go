package proof

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/netip"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/netlab"
)

// flatNetwork: a host of the services network finds one of the cluster network by ARP, which no router passes on.
func flatNetwork(ctx context.Context, t Target, _ control.Fault, _ control.Mark) (control.Proof, error) {
	shared, evidence, err := t.SharedSegment(ctx, plan.Tenant, plan.ClusterDNS)
	if err != nil {
		return control.Proof{}, err
	}
	if !shared {
		return unseen("%s", evidence)
	}
	return seen("%s and %s share a layer-2 segment: %s", plan.Tenant, plan.ClusterDNS, evidence)
}

// openRouter: connections that no rule allows are answered, and the router counts that it let them through all the same.
func openRouter(ctx context.Context, t Target, _ control.Fault, _ control.Mark) (control.Proof, error) {
	p := t.Plan()
	tenant, _ := p.Host(plan.Tenant)
	var aims []aim
	add := func(host string, port uint16, protocol string) {
		h, ok := p.Host(host)
		a := aim{plan.Tenant, protocol, netip.AddrPortFrom(h.Address(), port)}
		if ok && !p.Allows(tenant.Address(), a.to, protocol) {
			aims = append(aims, a)
		}
	}
	add(plan.ClusterDNS, 53, "udp")
	add(plan.ClusterDNS, 53, "tcp")
	if n, ok := another(t); ok {
		add(n.Name, 22, "tcp")
	}
	if len(aims) == 0 {
		return unseen("the lab's rules allow everything that could be tried")
	}
	before, err := t.RouterCounters(ctx)
	if err != nil {
		return control.Proof{}, fmt.Errorf("read the router's counters: %w", err)
	}
	results := probeAll(ctx, t, aims)
	after, err := t.RouterCounters(ctx)
	if err != nil {
		return control.Proof{}, fmt.Errorf("read the router's counters: %w", err)
	}
	counted := after[netlab.CounterOpenAll] - before[netlab.CounterOpenAll]
	for i, r := range results {
		if answered(r) && counted > 0 {
			return seen("no rule allows %s, but it was answered (%s), and the router let %d packets through that no rule allows", aims[i], r.Outcome, counted)
		}
	}
	return unseen("%s", outcomes(aims, results))
}

// swappedRoute: the hostname of one of the nodes leads, by way of the ingress, to the certificate of the other's agent.
func swappedRoute(ctx context.Context, t Target, f control.Fault, _ control.Mark) (control.Proof, error) {
	if t.Plan().Keylime.Push() {
		return control.Proof{}, fmt.Errorf("in the push model no hostname leads to an agent")
	}
	said := ""
	for i, name := range f.Nodes {
		asked, _ := findNode(t, name)
		other, _ := findNode(t, f.Nodes[1-i])
		cert, err := served(ctx, t, asked.Hostname)
		switch {
		case err != nil:
			said = err.Error()
		case other.AgentCertificate != nil && cert.Equal(other.AgentCertificate):
			return seen("a TLS connection from the verifier's host for the hostname of %s shows the certificate of the agent of %s (serial %s)", asked.Name, other.Name, serial(cert))
		default:
			said = fmt.Sprintf("the hostname of %s leads to the certificate with serial %s", asked.Name, serial(cert))
		}
	}
	return unseen("%s", said)
}

// served is the certificate that the verifier gets to see when it connects to a hostname.
func served(ctx context.Context, t Target, hostname string) (*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	raw, err := t.Dial(ctx, plan.Verifier, t.Plan().Keylime.Ingress)
	if err != nil {
		return nil, fmt.Errorf("connect to the ingress from the verifier's host: %w", err)
	}
	defer raw.Close()
	c := tls.Client(raw, &tls.Config{ServerName: hostname, Certificates: t.ClientTLS().Certificates, InsecureSkipVerify: true}) // whose it is, is the question
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS handshake for %s: %w", hostname, err)
	}
	return c.ConnectionState().PeerCertificates[0], nil
}

func serial(c *x509.Certificate) string {
	s := hex.EncodeToString(c.SerialNumber.Bytes())
	if len(s) > 16 {
		s = s[:16] + "…"
	}
	return s
}
