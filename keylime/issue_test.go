package keylime

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

// A service with a certificate of the authority is trusted by its clients, under its own names alone, and trusts them.
func TestServerCertificate(t *testing.T) {
	pki, err := CreatePKI(filepath.Join(t.TempDir(), "pki"), PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.ServerCertificate("notices", []string{"tenant.lab.test"}, []net.IP{net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.TLS.PeerCertificates[0].Subject.CommonName))
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pki.ClientCAs(), ClientAuth: tls.RequireAndVerifyClientCert}
	s.StartTLS()
	defer s.Close()
	ask := func(c *tls.Config) error {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}}
		resp, err := client.Get(s.URL)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	if err := ask(pki.ClientTLS()); err != nil {
		t.Errorf("the tenant: %v", err)
	}
	named := pki.ClientTLS()
	named.ServerName = "tenant.lab.test"
	if err := ask(named); err != nil {
		t.Errorf("by name: %v", err)
	}
	named.ServerName = "verifier.lab.test"
	if err := ask(named); err == nil || !strings.Contains(err.Error(), "verifier.lab.test") {
		t.Errorf("by another's name: %v", err)
	}
	stranger := pki.ClientTLS()
	stranger.Certificates = nil
	if err := ask(stranger); err == nil {
		t.Error("a client without a certificate is let in")
	}
	_, err = (&PKI{Dir: t.TempDir()}).ServerCertificate("notices", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "certificate of the notices: open ") {
		t.Errorf("without an authority: %v", err)
	}
}

// What the verifier tells, and to whom, is in its configuration; so is the lock of the tenant's store.
func TestNotifiersAreConfigured(t *testing.T) {
	pki, err := CreatePKI(t.TempDir(), PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kl, err := WriteConfig(t.Context(), Config{
		Dir: t.TempDir(), PKI: pki, Installation: installed(t),
		RevocationNotifiers: []string{"agent", "webhook"}, WebhookURL: "https://198.18.10.13:8892/x", CAPassword: "lock",
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ component, option, want string }{
		{"verifier", "revocations.enabled_revocation_notifications", "['agent', 'webhook']"}, {"verifier", "revocations.webhook_url", "https://198.18.10.13:8892/x"},
		{"ca", "password", "lock"},
	} {
		f, err := readINI(filepath.Join(kl.ConfDir, c.component+".conf"))
		if err != nil {
			t.Fatal(err)
		}
		if got := f.get(c.component, c.option); got != c.want {
			t.Errorf("%s %s = %q, want %q", c.component, c.option, got, c.want)
		}
	}
}
