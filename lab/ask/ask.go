// Package ask makes HTTP requests from the hosts of a running lab, on every substrate in the same way.
package ask

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/verify"
)

// Limits of one request: how long it may take, so that a host that does not answer is an outcome too, and how many bytes of the answer are kept.
const (
	timeout = 10 * time.Second
	maxBody = 64 << 10
)

// HTTP makes one request, whose address and server name are found as the host that makes it finds them. That there is no answer is in the answer; the error
// is about a request that could not be tried at all.
func HTTP(ctx context.Context, t verify.Target, r control.HTTPRequest) (control.HTTPAnswer, error) {
	if err := r.Check(); err != nil {
		return control.HTTPAnswer{}, err
	}
	p := t.Plan()
	if _, ok := p.Host(r.From); !ok {
		var hosts []string
		for _, h := range p.Hosts {
			hosts = append(hosts, h.Name)
		}
		return control.HTTPAnswer{}, fmt.Errorf("the lab has no host %q; it has %s", r.From, strings.Join(hosts, ", "))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %s", timeout))
	defer cancel()
	to, config, err := address(ctx, t, r)
	if err != nil {
		return control.HTTPAnswer{}, err
	}
	a, err := send(ctx, t, r, to, config)
	if err != nil {
		return control.HTTPAnswer{Error: err.Error()}, nil
	}
	return a, nil
}

// address is where the request goes, and how TLS is spoken there; nil: it is not.
func address(ctx context.Context, t verify.Target, r control.HTTPRequest) (netip.AddrPort, *tls.Config, error) {
	config := t.ClientTLS().Clone()
	if r.As == control.AsAnonymous {
		config.Certificates, config.GetClientCertificate = nil, nil
	}
	k := t.Plan().Keylime
	switch {
	case r.As == control.AsPlain:
		return k.Registrar, nil, nil
	case r.To == plan.Registrar:
		return k.RegistrarTLS, config, nil
	case r.To == plan.Verifier:
		return k.Verifier, config, nil
	}
	nodes := t.Nodes()
	i := slices.IndexFunc(nodes, func(n verify.Node) bool { return n.Name == r.To })
	if i < 0 {
		return netip.AddrPort{}, nil, fmt.Errorf("%q is neither %s nor %s nor a node of the lab", r.To, plan.Registrar, plan.Verifier)
	}
	if k.Push() {
		return netip.AddrPort{}, nil, fmt.Errorf("the agent of %s cannot be asked: in the push model nobody connects to an agent", r.To)
	}
	addrs, err := t.Resolve(ctx, r.From, nodes[i].Hostname)
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("it has no address")
	}
	if err != nil {
		return netip.AddrPort{}, nil, fmt.Errorf("resolve %s on %s: %w", nodes[i].Hostname, r.From, err)
	}
	// An agent's certificate is its own: the registrar vouches for it, no CA does.
	return netip.AddrPortFrom(addrs[0], k.Ingress.Port()), &tls.Config{ServerName: nodes[i].Hostname, Certificates: config.Certificates, InsecureSkipVerify: true}, nil
}

func send(ctx context.Context, t verify.Target, r control.HTTPRequest, to netip.AddrPort, config *tls.Config) (control.HTTPAnswer, error) {
	scheme := "https"
	if config == nil {
		scheme = "http"
	}
	client := http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: config,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return t.Dial(ctx, r.From, to) },
		},
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, scheme+"://"+to.String()+r.Path, strings.NewReader(r.Body))
	if err != nil {
		return control.HTTPAnswer{}, err
	}
	if r.Body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return control.HTTPAnswer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return control.HTTPAnswer{}, fmt.Errorf("status %d, and then: %w", resp.StatusCode, err)
	}
	date, _ := http.ParseTime(resp.Header.Get("Date")) // zero: it does not say
	return control.HTTPAnswer{Status: resp.StatusCode, Body: string(body), Date: date}, nil
}
