package verify

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"keylab.dev/keylab/ima"
	"keylab.dev/keylab/lab/plan"
)

// routing proves point 4: a hostname leads to the agent with that UUID, and to no other.
func (v *verification) routing() []check {
	checks := v.perNode("dns", pointRouting, func(ctx context.Context, n Node) (string, error) {
		addrs, err := v.target.Resolve(ctx, plan.Verifier, n.Hostname)
		if err != nil {
			return "", fmt.Errorf("resolve %s on the verifier's host: %w", n.Hostname, err)
		}
		if len(addrs) != 1 || addrs[0] != v.plan.Keylime.Ingress.Addr() {
			return "", fmt.Errorf("%s resolves to %v, not to the ingress %s", n.Hostname, addrs, v.plan.Keylime.Ingress.Addr())
		}
		return addrs[0].String() + ", the ingress", nil
	})
	checks = append(checks, v.perNode("certificate", pointRouting, v.certificate)...)
	checks = append(checks, v.perNode("quote", pointRouting, v.quote)...)
	return append(checks,
		check{"unknown-uuid", pointRouting, "ingress", v.unknownUUID},
		check{"no-name", pointRouting, "ingress", func(ctx context.Context) (string, error) {
			return v.refused(ctx, "", "a TLS client that names no host")
		}},
	)
}

// handshake speaks TLS with the ingress under a server name, from the verifier's host.
func (v *verification) handshake(ctx context.Context, serverName string) (*tls.Conn, error) {
	raw, err := v.target.Dial(ctx, plan.Verifier, v.plan.Keylime.Ingress)
	if err != nil {
		return nil, fmt.Errorf("connect to the ingress %s from the verifier's host: %w", v.plan.Keylime.Ingress, err)
	}
	c := tls.Client(raw, &tls.Config{
		ServerName:   serverName,
		Certificates: v.target.ClientTLS().Certificates,
		// The certificate is compared with the one that the registrar holds, which is what Keylime trusts.
		InsecureSkipVerify: true,
	})
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("TLS handshake as %q: %w", serverName, err)
	}
	return c, nil
}

// certificate checks that the certificate behind the hostname is the one that this agent registered.
func (v *verification) certificate(ctx context.Context, n Node) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, routingTimeout)
	defer cancel()
	record, err := v.records.of(n)
	if err != nil {
		return "", err
	}
	want := record.MTLSCert
	if want == nil {
		return "", errors.New("the registrar holds no certificate of this agent")
	}
	c, err := v.handshake(ctx, n.Hostname)
	if err != nil {
		return "", err
	}
	defer c.Close()
	got := c.ConnectionState().PeerCertificates[0]
	if !got.Equal(want) {
		return "", fmt.Errorf("the hostname leads to another certificate (%s) than the agent registered (%s)", name(got), name(want))
	}
	return "the certificate that the agent registered, serial " + shorten(hex.EncodeToString(got.SerialNumber.Bytes())), nil
}

// quote asks for a quote by the agent's hostname, with a nonce that was never used before. The answer must be signed
// by the AK that the registrar holds for this UUID; this node's agent, and no other, must have served that nonce; the
// ingress must have counted the connection under this hostname, where it is keylab's own, and the node's kernel its arrival.
func (v *verification) quote(ctx context.Context, n Node) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, routingTimeout)
	defer cancel()
	record, err := v.records.of(n)
	if err != nil {
		return "", err
	}
	before, err := v.ingressCounts(ctx)
	if err != nil {
		return "", err
	}
	arrivedBefore, err := n.Arrived()
	if err != nil {
		return "", fmt.Errorf("read the count of connections at %s: %w", n.Name, err)
	}
	nonce, err := newNonce()
	if err != nil {
		return "", err
	}
	c, err := v.handshake(ctx, n.Hostname)
	if err != nil {
		return "", err
	}
	defer c.Close()
	body, err := get(ctx, c, "https://"+n.Hostname+"/v2.2/quotes/identity?nonce="+nonce)
	if err != nil {
		return "", fmt.Errorf("ask %s for a quote: %w", n.Hostname, err)
	}
	quote, err := checkIdentityQuote(body, record.AIKTPM, nonce)
	if err != nil {
		return "", fmt.Errorf("the quote is not one of the AK that the registrar holds for %s over our nonce: %w", n.UUID, err)
	}
	if err := checkAlgorithms(quote, n.Agent); err != nil {
		return "", err
	}
	for _, other := range v.nodes {
		served, err := other.Served(nonce)
		switch {
		case err != nil:
			return "", fmt.Errorf("read which nonces the agent of %s served: %w", other.Name, err)
		case other.Name == n.Name && served != 1:
			return "", fmt.Errorf("the quote has come, but the agent of %s counts %d quotes for its nonce, not 1", n.Name, served)
		case other.Name != n.Name && served != 0:
			return "", fmt.Errorf("a request named for %s was served by the agent of %s", n.Name, other.Name)
		}
	}
	after, err := v.ingressCounts(ctx)
	if err != nil {
		return "", err
	}
	countedBy := "by ingress and node"
	if !v.plan.OwnIngress() {
		countedBy = "by the node; the ingress, which is not keylab's own, cannot be asked"
	} else if after.Forwarded[n.Hostname] <= before.Forwarded[n.Hostname] {
		return "", fmt.Errorf("the ingress counted no connection for %s: the request went another way", n.Hostname)
	}
	arrivedAfter, err := n.Arrived()
	if err != nil {
		return "", fmt.Errorf("read the count of connections at %s: %w", n.Name, err)
	}
	if arrivedAfter <= arrivedBefore {
		return "", fmt.Errorf("the kernel of %s counted no connection at the agent's port: the request went another way", n.Name)
	}
	return fmt.Sprintf("nonce %s…: signed by the registered AK, served by this agent once and by no other, counted %s", nonce[:6], countedBy), nil
}

// unknownUUID checks that a hostname of nobody leads to nobody.
func (v *verification) unknownUUID(ctx context.Context) (string, error) {
	random := make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		return "", err
	}
	return v.refused(ctx, plan.ContactHostname(hex.EncodeToString(random), v.plan.Domain), "a UUID that no agent has")
}

// refused checks that the ingress leads a stranger's hostname to no agent.
func (v *verification) refused(ctx context.Context, serverName, what string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, routingTimeout)
	defer cancel()
	before, err := v.ingressCounts(ctx)
	if err != nil {
		return "", err
	}
	var shown *x509.Certificate
	c, refusal := v.handshake(ctx, serverName)
	if refusal == nil {
		defer c.Close()
		shown = c.ConnectionState().PeerCertificates[0]
	}
	after, err := v.ingressCounts(ctx)
	if err != nil {
		return "", err
	}
	if v.plan.OwnIngress() {
		return refusedByOwn(what, shown, refusal, after.Refused-before.Refused)
	}
	return refusedByOther(what, shown, v.nodes)
}

// refusedByOwn judges what a stranger's hostname met at keylab's own ingress, which shows no certificate and counts the refusal.
func refusedByOwn(what string, shown *x509.Certificate, refusal error, counted uint64) (string, error) {
	if shown != nil {
		return "", fmt.Errorf("%s got the certificate %s", what, name(shown))
	}
	if counted == 0 {
		return "", fmt.Errorf("%s got no certificate, but the ingress did not count a refusal: %w", what, refusal)
	}
	return what + " is refused, no certificate shown, and counted", nil
}

// refusedByOther does so for any other ingress: many answer a name that they do not know with a certificate of their own. It must be no agent's.
func refusedByOther(what string, shown *x509.Certificate, nodes []Node) (string, error) {
	if shown == nil {
		return what + " is refused, no certificate shown", nil
	}
	for _, n := range nodes {
		if n.AgentCertificate == nil {
			return "", fmt.Errorf("%s got the certificate %s, and which one the agent of %s serves is not known", what, name(shown), n.Name)
		}
		if shown.Equal(n.AgentCertificate) {
			return "", fmt.Errorf("%s was led to the agent of %s", what, n.Name)
		}
	}
	return what + " is led to no agent: the ingress answers for itself, as " + name(shown), nil
}

// ingressCounts is what the ingress has counted so far; nothing, where it is not keylab's own.
func (v *verification) ingressCounts(ctx context.Context) (IngressCounts, error) {
	if !v.plan.OwnIngress() {
		return IngressCounts{}, nil
	}
	counts, err := v.target.Ingress(ctx)
	if err != nil {
		return counts, fmt.Errorf("read the ingress' counters: %w", err)
	}
	return counts, nil
}

// routingTimeout bounds one request through the ingress; a swtpm on a busy machine takes its time for a quote.
const routingTimeout = 30 * time.Second

// maxAnswer bounds an agent's answer, in bytes: an IMA list can be long.
const maxAnswer = 2 * ima.MaxListBytes

// get asks for one document over a connection that stands already.
func get(ctx context.Context, c net.Conn, url string) ([]byte, error) {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext:    func(context.Context, string, string) (net.Conn, error) { return c, nil },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %s: %s", resp.Status, body)
	}
	return body, nil
}

// newNonce makes a nonce as Keylime's tenant does: 20 characters, letters and digits.
func newNonce() (string, error) {
	random := make([]byte, 10)
	if _, err := rand.Read(random); err != nil {
		return "", fmt.Errorf("make a nonce: %w", err)
	}
	return hex.EncodeToString(random), nil
}

func name(c *x509.Certificate) string {
	return fmt.Sprintf("%s, serial %s", c.Subject, shorten(hex.EncodeToString(c.SerialNumber.Bytes())))
}

func shorten(s string) string {
	if len(s) > 16 {
		return s[:16] + "…"
	}
	return s
}
