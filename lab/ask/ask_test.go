package ask_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/lab/ask"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/verify"
)

// lab has one TLS server, which is all that can be asked but the plain port.
type lab struct {
	verify.Target // what no test needs
	plan          plan.Plan
	server        *httptest.Server
	dialled       []string
}

func (l *lab) Plan() plan.Plan { return l.plan }

func (l *lab) Nodes() []verify.Node {
	return []verify.Node{{Node: plan.Node{Name: "node-1"}, Hostname: "u1.agents.lab.test"}}
}

func (l *lab) ClientTLS() *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(l.server.Certificate())
	return &tls.Config{RootCAs: roots, Certificates: l.server.TLS.Certificates}
}

func (l *lab) Resolve(_ context.Context, from, name string) ([]netip.Addr, error) {
	l.dialled = append(l.dialled, from+" asks for "+name)
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

func (l *lab) Dial(ctx context.Context, from string, to netip.AddrPort) (net.Conn, error) {
	l.dialled = append(l.dialled, from)
	return new(net.Dialer).DialContext(ctx, "tcp", to.String())
}

// newLab's server says what it was asked, with status 418; a client without a certificate is refused like registrar and agents do.
func newLab(t *testing.T, handler http.Handler) *lab {
	s := httptest.NewUnstartedServer(handler)
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	plain := httptest.NewServer(handler)
	t.Cleanup(plain.Close)
	at := netip.MustParseAddrPort(s.Listener.Addr().String())
	l := &lab{server: s}
	l.plan.Hosts = []plan.Host{{Name: "tenant"}, {Name: "node-1"}}
	l.plan.Keylime = plan.Keylime{Mode: "pull", Verifier: at, RegistrarTLS: at, Ingress: at, Registrar: netip.MustParseAddrPort(plain.Listener.Addr().String())}
	return l
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	name := ""
	if r.TLS != nil {
		name = r.TLS.ServerName
	}
	w.WriteHeader(http.StatusTeapot)
	fmt.Fprintf(w, "%s %s %s %q tls=%t", r.Method, r.URL, body, name, r.TLS != nil)
}

// Each of those that can be asked answers, by the names and with the certificate that belong to it.
func TestHTTP(t *testing.T) {
	l := newLab(t, http.HandlerFunc(echo))
	for _, c := range []struct {
		r    control.HTTPRequest
		want string
	}{
		{control.HTTPRequest{To: "verifier", Method: "PUT", Path: "/a?b=c", Body: "{}", As: "client"}, `PUT /a?b=c {} "" tls=true`},
		{control.HTTPRequest{To: "registrar", Method: "GET", Path: "/a", As: "client"}, `GET /a  "" tls=true`},
		{control.HTTPRequest{To: "registrar", Method: "GET", Path: "/a", As: "plain"}, `GET /a  "" tls=false`},
		{control.HTTPRequest{To: "node-1", Method: "GET", Path: "/a", As: "client"}, `GET /a  "u1.agents.lab.test" tls=true`},
	} {
		c.r.From = "tenant"
		a, err := ask.HTTP(t.Context(), l, c.r)
		if err != nil || a.Status != http.StatusTeapot || a.Body != c.want || a.Error != "" || time.Since(a.Date) > time.Minute {
			t.Errorf("%+v: %+v, %v; want %s", c.r, a, err, c.want)
		}
	}
	if got := strings.Join(l.dialled, ", "); got != "tenant, tenant, tenant, tenant asks for u1.agents.lab.test, tenant" {
		t.Errorf("it was dialled: %s", got)
	}
}

// That nobody answers is an answer, and says why.
func TestNoAnswer(t *testing.T) {
	l := newLab(t, http.HandlerFunc(echo))
	ask1 := func(r control.HTTPRequest) control.HTTPAnswer {
		a, err := ask.HTTP(t.Context(), l, r)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := ask1(control.HTTPRequest{From: "tenant", To: "verifier", Method: "GET", Path: "/", As: "anonymous"}); a.Status != 0 || !strings.Contains(a.Error, "certificate") {
		t.Errorf("a client without a certificate: %+v", a)
	}
	l.server.Close()
	if a := ask1(control.HTTPRequest{From: "tenant", To: "verifier", Method: "GET", Path: "/", As: "client"}); a.Status != 0 || !strings.Contains(a.Error, "refused") {
		t.Errorf("a server that is gone: %+v", a)
	}
}

// What cannot be asked at all is an error that names it.
func TestCannotBeAsked(t *testing.T) {
	l := newLab(t, http.HandlerFunc(echo))
	for _, c := range []struct {
		r    control.HTTPRequest
		want string
	}{
		{control.HTTPRequest{From: "moon", To: "verifier", Method: "GET", Path: "/", As: "client"}, `no host "moon"; it has tenant, node-1`},
		{control.HTTPRequest{From: "tenant", To: "moon", Method: "GET", Path: "/", As: "client"}, `"moon" is neither registrar nor verifier nor a node`},
		{control.HTTPRequest{From: "tenant", To: "verifier", Method: "TAKE", Path: "/", As: "client"}, `"TAKE" is no method`},
		{control.HTTPRequest{From: "tenant", To: "verifier", Method: "GET", Path: "x", As: "client"}, `does not begin with /`},
		{control.HTTPRequest{From: "tenant", To: "verifier", Method: "GET", Path: "/", As: "root"}, `"root" is no kind of client`},
		{control.HTTPRequest{From: "tenant", To: "verifier", Method: "GET", Path: "/", As: "plain"}, `nobody but the registrar`},
	} {
		if a, err := ask.HTTP(t.Context(), l, c.r); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %+v, %v", c.r, a, err)
		}
	}
	l.plan.Keylime.Mode = "push"
	if _, err := ask.HTTP(t.Context(), l, control.HTTPRequest{From: "tenant", To: "node-1", Method: "GET", Path: "/", As: "client"}); err == nil || !strings.Contains(err.Error(), "push model") {
		t.Errorf("an agent of the push model: %v", err)
	}
}
