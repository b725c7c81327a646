package keylime

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPKI(t *testing.T) {
	for _, alg := range []string{ECDSAP256, RSA2048} {
		dir := filepath.Join(t.TempDir(), "pki")
		now := time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)
		p, err := CreatePKI(dir, PKIOptions{Algorithm: alg, Now: now, Validity: 24 * time.Hour,
			VerifierNames: []string{"verifier.lab.test"}, VerifierIPs: []net.IP{net.IPv4(198, 18, 10, 12)},
			RegistrarIPs: []net.IP{net.IPv4(198, 18, 10, 11)}})
		if err != nil {
			t.Fatal(err)
		}
		check := func(file, host string, usage x509.ExtKeyUsage, at time.Time) error {
			pair, err := tls.LoadX509KeyPair(p.path(file+"-cert.crt"), p.path(file+"-private.pem"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: p.roots, DNSName: host, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: at})
			return err
		}
		server, client := x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth
		for _, c := range []struct {
			file, host string
			usage      x509.ExtKeyUsage
			at         time.Time
			want       string // "" for success, else part of the error
		}{
			{"verifier", "198.18.10.12", server, now, ""},
			{"verifier", "verifier.lab.test", server, now, ""},
			{"verifier", "127.0.0.1", server, now, ""},
			{"verifier", "198.18.10.11", server, now, "198.18.10.12"},
			{"verifier", "198.18.10.12", client, now, "incompatible key usage"}, // a server's certificate must not make an administrator
			{"registrar", "198.18.10.11", server, now, ""},
			{"tenant", "", client, now, ""},
			{"tenant", "", server, now, "incompatible key usage"},
			{"verifier-client", "", client, now, ""},
			{"tenant", "", client, now.Add(25 * time.Hour), "expired"},
			{"tenant", "", client, now.Add(-2 * time.Hour), "not yet valid"},
		} {
			err := check(c.file, c.host, c.usage, c.at)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s: %s for %q at %s: %v; want %q", alg, c.file, c.host, c.at, err, c.want)
			}
		}
		if _, ok := p.CACert.PublicKey.(*ecdsa.PublicKey); ok != (alg == ECDSAP256) {
			t.Errorf("%s made a key of type %T", alg, p.CACert.PublicKey)
		}
		if _, err := CreatePKI(dir, PKIOptions{}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("a second authority over the first: %v; want a refusal", err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "*-private.pem"))
		if err != nil || len(files) != 5 {
			t.Fatalf("keys %v, %v; want five", files, err)
		}
		for _, f := range append(files, dir) {
			if info, err := os.Stat(f); err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: mode %v, %v; others must not read it", f, info.Mode(), err)
			}
		}
	}
	if _, err := CreatePKI(t.TempDir(), PKIOptions{Algorithm: "dsa"}); err == nil || !strings.Contains(err.Error(), ECDSAP256) {
		t.Errorf("unknown algorithm: %v; want the known ones named", err)
	}
}

func TestAgentServerCertificate(t *testing.T) {
	host := strings.Repeat("0123456789abcdef", 2) + "." + strings.Repeat("f", 32) + ".agents.lab.test" // as long as contact names are
	for _, alg := range []string{"", RSA2048} {
		cert, key, err := AgentServerCertificate(alg, host, "198.18.20.11")
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(pair.Leaf)
		for _, h := range []string{host, "198.18.20.11"} {
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: h}); err != nil {
				t.Errorf("%s: %v", h, err)
			}
		}
		if pair.Leaf.IsCA {
			t.Error("an agent's certificate is a certificate authority's")
		}
	}
}

const sampleINI = `# first comment
[verifier]
# The port
port = 8881
list = ["a",
    "b"]
empty =

[revocations]
webhook_url =
`

func TestINIEdit(t *testing.T) {
	f := parseINI(sampleINI)
	for name, value := range map[string]string{"port": "1234", "list": "[]", "revocations.webhook_url": "http://x/?a=b"} {
		if err := f.set("verifier", name, value); err != nil {
			t.Error(err)
		}
	}
	want := strings.NewReplacer("port = 8881", "port = 1234", "list = [\"a\",\n    \"b\"]", "list = []\n", "webhook_url =", "webhook_url = http://x/?a=b").Replace(sampleINI)
	if f.String() != want {
		t.Errorf("got\n%s\nwant\n%s", f, want)
	}
	if err := f.set("verifier", "prot", "1"); err == nil || !strings.Contains(err.Error(), `verifier.conf has no option "prot"; the nearest is "port"`) {
		t.Errorf("unknown option: %v", err)
	}
	if err := f.set("verifier", "port", "1\nevil = 2"); err == nil {
		t.Error("a value with a line break was accepted")
	}
}

func TestWriteConfig(t *testing.T) {
	pki, err := CreatePKI(t.TempDir(), PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	base := Config{PKI: pki, Installation: installed(t)}
	base.Dir = t.TempDir()
	base.QuoteInterval = 1500 * time.Millisecond
	base.Overrides = map[string]map[string]string{"verifier": {"max_retries": "3"}, "ca": {"cert_country": "FI"}}
	kl, err := WriteConfig(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ component, option, want string }{
		{"verifier", "quote_interval", "1.5"},
		{"verifier", "max_retries", "3"},
		{"verifier", "severity_labels", `["info", "notice", "warning", "error", "critical", "alert", "emergency"]`}, // Keylime's own default
		{"verifier", "revocations.enabled_revocation_notifications", "[]"},
		{"tenant", "require_ek_cert", "True"},
		{"tenant", "ek_check_script", ""},
		{"tenant", "tpm_cert_store", kl.TPMCertStore},
		{"ca", "cert_country", "FI"},
	} {
		f, err := readINI(filepath.Join(kl.ConfDir, c.component+".conf"))
		if err != nil {
			t.Fatal(err)
		}
		if got := f.get(c.component, c.option); got != c.want {
			t.Errorf("%s %s = %q, want %q", c.component, c.option, got, c.want)
		}
	}
	// Written again, as by a restart of the same lab, databases must survive.
	db := filepath.Join(base.Dir, "verifier", verifierDB)
	if err := os.WriteFile(db, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteConfig(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(db); err != nil || string(data) != "kept" {
		t.Errorf("the database is %q, %v after a second WriteConfig; want it untouched", data, err)
	}

	for name, c := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"option":    {func(c *Config) { c.Overrides = map[string]map[string]string{"tenant": {"require_ek_certs": "False"}} }, []string{"tenant.conf", `"require_ek_certs"`, `nearest is "require_ek_cert"`}},
		"component": {func(c *Config) { c.Overrides = map[string]map[string]string{"tennant": {}} }, []string{`"tennant"`, "registrar"}},
		"push":      {func(c *Config) { c.Mode, c.QuoteInterval = Push, time.Second/2 }, []string{"whole seconds"}},
		"several":   {func(c *Config) { c.Mode, c.VerifierIP, c.VerifierPort = "pul", "host", 70000 }, []string{`"pul"`, `"host"`, "70000"}},
	} {
		bad := base
		bad.Dir = t.TempDir()
		c.change(&bad)
		_, err := WriteConfig(t.Context(), bad)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v; want it to say %s", name, err, want)
			}
		}
	}
}

func TestInstallErrors(t *testing.T) {
	_, err := EnsureInstalled(t.Context(), InstallOptions{Version: "6.6.6"})
	if err == nil || !strings.Contains(err.Error(), "6.6.6") || !strings.Contains(err.Error(), DefaultVersion) {
		t.Errorf("unknown version: %v; want the known ones named", err)
	}
	_, err = EnsureInstalled(t.Context(), InstallOptions{Python: "/nowhere/python3", CacheDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "/nowhere/python3") || !strings.Contains(err.Error(), "apt-get install") {
		t.Errorf("no Python: %v; want advice", err)
	}
	if !slices.Contains(Versions(), DefaultVersion) {
		t.Errorf("Versions() = %v lacks the default", Versions())
	}
}

// The tests' network namespace reaches no package index: that must come out as advice, and leave nothing that looks complete.
func TestInstallWithoutNetwork(t *testing.T) {
	t.Setenv("PIP_RETRIES", "0")
	t.Setenv("PIP_NO_CACHE_DIR", "1")
	t.Setenv("PIP_FIND_LINKS", "")
	t.Setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
	cache := t.TempDir()
	var lines []string
	_, err := EnsureInstalled(t.Context(), InstallOptions{CacheDir: cache, Log: func(l string) { lines = append(lines, l) }})
	var ie *InstallError
	if !errors.As(err, &ie) {
		t.Fatalf("error %v; want an InstallError", err)
	}
	if ie.Step != "install the pinned packages" || !strings.Contains(ie.Hint, "index could not be reached") || ie.Output == "" || len(ie.Argv) == 0 {
		t.Errorf("%+v", ie)
	}
	for _, want := range []string{"install the pinned packages", "pip", "hint: "} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
	if len(lines) == 0 {
		t.Error("nothing was logged")
	}
	if done, _ := filepath.Glob(filepath.Join(cache, "keylime", "*", markerName)); len(done) != 0 {
		t.Errorf("the failed installation is marked as complete: %v", done)
	}
}

func TestInstallLockIsHeldAndReleased(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(t.Context(), path, func() { t.Error("the first has to wait") })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := lockFile(ctx, path, cancel); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), path) {
		t.Errorf("second lock: %v; want it to wait until cancelled", err)
	}
	release := func() { unlock() }
	second, err := lockFile(t.Context(), path, release)
	if err != nil {
		t.Fatal(err)
	}
	second()
}

func TestCheckFindsNothingMissing(t *testing.T) {
	if p := Check(t.Context(), InstallOptions{}); len(p) != 0 {
		t.Errorf("problems %v", p)
	}
}

// A stand-in for python3 that lacks what Debian splits off into packages of their own.
func TestCheckNamesDebianPackages(t *testing.T) {
	python := filepath.Join(t.TempDir(), "python3")
	if err := os.WriteFile(python, []byte("#!/bin/sh\necho ok ok ensurepip gpg efivar\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	problems := Check(t.Context(), InstallOptions{Python: python})
	err := fatalProblems(problems)
	for _, want := range []string{"apt-get install python3-venv", "apt-get install python3-gpg"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v; want %q", err, want)
		}
	}
	i := slices.IndexFunc(problems, func(p Problem) bool { return p.Fix == "apt-get install libefivar1" })
	if i < 0 || !problems[i].MeasuredBoot || !problems[i].Optional || strings.Contains(err.Error(), "libefivar") {
		t.Errorf("without libefivar1: %v; fatal: %v", problems, err)
	}
}

func TestNegotiate(t *testing.T) {
	for offered, want := range map[string]string{"1.0 2.0 2.1 2.10 2.6 3.0": "2.6", "2.3 2.1": "2.3", "2 1": "2", "1.0 3.0": "", "": ""} {
		if got := negotiate(strings.Fields(offered)); got != want {
			t.Errorf("offered %s: %q, want %q", offered, got, want)
		}
	}
}

// Answers that no Keylime gives must become errors, not panics or empty successes.
func TestClientSurvivesOddAnswers(t *testing.T) {
	var status int
	var body string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/version" {
			w.Write([]byte(`{"code":200,"status":"Success","results":{"current_version":"2.6","supported_versions":["2.6"]}}`))
			return
		}
		w.WriteHeader(status)
		w.Write([]byte(body))
	}))
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	addr := srv.Listener.Addr().String()
	conf := &tls.Config{RootCAs: roots}
	vc, rc := NewVerifierClient(addr, conf, nil), NewRegistrarClient(addr, conf, nil)
	for _, c := range []struct {
		status int
		body   string
		want   string
	}{
		{200, "<html>", "not JSON"},
		{200, `{"code":200,"results":{"operational_state":"x","ek_tpm":7}}`, "unexpected results"},
		{200, `{"code":200,"results":[]}`, "unexpected results"},
		{500, "boom", "boom"},
		{403, `{"code":403,"status":"Forbidden by policy","results":{}}`, ": 403 Forbidden: Forbidden by policy"},
	} {
		status, body = c.status, c.body
		if _, err := vc.Agent(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("verifier answers %d %s: %v, want %q", c.status, c.body, err, c.want)
		}
		if _, err := rc.Agent(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("registrar answers %d %s: %v, want %q", c.status, c.body, err, c.want)
		}
	}
	status, body = 200, `{"results":{"ek_tpm":"***","mtls_cert":"nonsense"}}`
	if _, err := rc.Agent(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "ek_tpm") || !strings.Contains(err.Error(), "mtls_cert") {
		t.Errorf("undecodable registration: %v; want each bad field named", err)
	}
	body = `{"results":{"operational_state":null,"attestation_status":"TIMEOUT","ip":null,"port":null,"severity_level":null,"last_event_id":null,"attestation_count":null}}`
	if a, err := vc.Agent(t.Context(), "x"); err != nil || a.OperationalState != NoState || a.AttestationStatus != "TIMEOUT" {
		t.Errorf("an agent of the push model: %+v, %v", a, err)
	}
}

func TestUnknownStateHasAName(t *testing.T) {
	if s := OperationalState(42).String(); s != "OperationalState(42)" {
		t.Error(s)
	}
	if s := GetQuoteRetry.String(); s != "Get Quote (retry)" {
		t.Error(s)
	}
}
