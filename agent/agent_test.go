package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// sharedPayloadKey spares each test the 100 ms of making one.
var sharedPayloadKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// testCA stands for Keylime's cv_ca.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCA(t testing.TB, name string) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{cert, key}
}

func (ca *testCA) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

func (ca *testCA) client(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "verifier"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// fixture is an agent being served, its registrar and an authenticated client.
type fixture struct {
	*Agent
	tpm       *testTPM
	ca        *testCA
	registrar *fakeRegistrar
	client    *http.Client
	url       string
	accesses  chan Access
}

// baseConfig is a complete configuration around a TPM.
func baseConfig(tpm *testTPM, ca *testCA) Config {
	return Config{
		OpenTPM:        tpm.open,
		ContactAddress: "agent.agents.lab.test",
		ContactPort:    443,
		ClientCAs:      ca.pool(),
		PayloadKey:     sharedPayloadKey(),
		RetryDelay:     time.Millisecond,
	}
}

func newAgent(t testing.TB, cfg Config) *Agent {
	t.Helper()
	a, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// startAgent serves an agent on loopback. change, if given, edits its Config.
func startAgent(t testing.TB, change func(*Config)) *fixture {
	t.Helper()
	f := &fixture{tpm: startTPM(t), ca: newCA(t, "cv_ca"), registrar: startRegistrar(t), accesses: make(chan Access, 100)}
	cfg := baseConfig(f.tpm, f.ca)
	cfg.Registrar = f.registrar.addr()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listener = listener
	cfg.OnAccess = func(a Access) {
		select {
		case f.accesses <- a:
		default:
		}
	}
	if change != nil {
		change(&cfg)
	}
	f.Agent = newAgent(t, cfg)
	f.url = "https://" + listener.Addr().String()
	f.client = f.clientWith(f.ca.client(t))
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- f.Serve(ctx) }()
	t.Cleanup(func() {
		f.client.CloseIdleConnections()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return f
}

// clientWith trusts exactly the registered certificate, as Keylime does.
func (f *fixture) clientWith(certs ...tls.Certificate) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(f.ServerCertificate())
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, ServerName: "agent.agents.lab.test", Certificates: certs,
	}}}
}

// get fetches a path and returns status and the envelope.
func (f *fixture) get(t testing.TB, path string) (int, envelopeText) {
	t.Helper()
	return f.send(t, http.MethodGet, path, "", nil)
}

type envelopeText struct {
	Code    int             `json:"code"`
	Status  string          `json:"status"`
	Results json.RawMessage `json:"results"`
}

func (f *fixture) send(t testing.TB, method, path, contentType string, body io.Reader) (int, envelopeText) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, f.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := f.client.Do(request)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	var e envelopeText
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if empty := len(data) == 0; empty != (response.Header.Get("Content-Type") == "") {
		t.Errorf("%s %s: content type %q of %q", method, path, response.Header.Get("Content-Type"), data)
	}
	if method != http.MethodHead && len(data) > 0 {
		if err := json.Unmarshal(data, &e); err != nil {
			t.Fatalf("%s %s: answer is not an envelope: %v", method, path, err)
		}
		if e.Code != response.StatusCode {
			t.Errorf("%s %s: status %d, envelope says %d", method, path, response.StatusCode, e.Code)
		}
	}
	return response.StatusCode, e
}

func decode[T any](t testing.TB, raw json.RawMessage) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return v
}

// quoteOf fetches a quote, checks it as a verifier does, and returns both.
func (f *fixture) quoteOf(t testing.TB, path, nonce string) (quoteResults, *Quote) {
	t.Helper()
	status, e := f.get(t, path)
	if status != 200 {
		t.Fatalf("%s: %d %s", path, status, e.Status)
	}
	results := decode[quoteResults](t, e.Results)
	q, err := ParseQuote(results.Quote)
	if err != nil {
		t.Fatal(err)
	}
	ak := f.AKPublic()
	if err := q.Verify(&ak, []byte(nonce)); err != nil {
		t.Fatal(err)
	}
	return results, q
}

// wantPCR16 is what Keylime's verifier computes for the payload key.
func wantPCR16(pem string) string {
	key := sha256.Sum256([]byte(pem))
	pcr := sha256.Sum256(append(make([]byte, 32), key[:]...))
	return hex.EncodeToString(pcr[:])
}

func TestRegisterAndQuote(t *testing.T) {
	for _, c := range []struct {
		ek, ak, enc string
	}{
		{EKRSA2048, AKRSASSA, "rsa2048"},
		{EKRSA2048, AKRSAPSS, "rsa2048"},
		{EKECCP256, AKRSASSA, "rsa2048"},
		{EKECCP256, AKECDSA, "ecc256"},
	} {
		t.Run(c.ek+"/"+c.ak, func(t *testing.T) {
			t.Parallel()
			f := startAgent(t, func(cfg *Config) { cfg.EKAlgorithm, cfg.AKAlgorithm = c.ek, c.ak })
			if err := f.Register(t.Context()); err != nil {
				t.Fatal(err)
			}
			record := f.registrar.record(f.UUID())
			if record == nil || !record.active {
				t.Fatal("the registrar did not activate the agent")
			}
			if record.Address != "agent.agents.lab.test" || record.Port != 443 {
				t.Errorf("contact %s:%d", record.Address, record.Port)
			}
			if !record.cert.Equal(f.ServerCertificate()) {
				t.Error("the registered certificate is not the served one")
			}
			results, q := f.quoteOf(t, "/v2.6/quotes/integrity?nonce=abc123&mask=0x3ff&partial=0&ima_ml_entry=0", "abc123")
			if results.HashAlg != "sha256" || results.EncAlg != c.enc || results.SignAlg != c.ak {
				t.Errorf("algorithms %s %s %s", results.HashAlg, results.EncAlg, results.SignAlg)
			}
			if len(q.PCRs) != 11 { // PCRs 0-9 and 16: two digest lists
				t.Errorf("quoted PCRs %v", q.PCRs)
			}
			if results.Pubkey == nil {
				t.Fatal("partial=0 without pubkey")
			}
			if value, _ := q.PCR(16); hex.EncodeToString(value) != wantPCR16(*results.Pubkey) {
				t.Errorf("PCR 16 is %x, want the digest of the payload key", value)
			}
			if n := f.ServedNonce("abc123"); n != 1 {
				t.Errorf("ServedNonce = %d, want 1", n)
			}
		})
	}
}

func TestHashEKIsTheDigestOfThePEM(t *testing.T) {
	f := startAgent(t, nil)
	sum := sha256.Sum256(f.ek.pem)
	if want := hex.EncodeToString(sum[:]); f.UUID() != want {
		t.Errorf("UUID %s, want %s", f.UUID(), want)
	}
	if text := string(f.ek.pem); !strings.HasPrefix(text, "-----BEGIN PUBLIC KEY-----\n") || !strings.HasSuffix(text, "-----END PUBLIC KEY-----\n") {
		t.Errorf("PEM %q", text)
	}
}
