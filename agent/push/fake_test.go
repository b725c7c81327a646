package push

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"keylab.dev/keylab/agent"
)

// The tests with a fake verifier run in virtual time (testing/synctest), over connections in memory.

const (
	testAgent = "agent-1"
	testHost  = "verifier.lab.test"
	testToken = "5e55.token-that-nobody-else-may-see"
	below     = "/v3.0/agents/" + testAgent + "/attestations/"
)

// fakeTPM signs nothing: the fake verifier looks for the challenge only.
type fakeTPM struct{ err error }

func (f *fakeTPM) Capabilities(context.Context) (*agent.Capabilities, error) {
	return &agent.Capabilities{SignatureSchemes: []string{"ecdsa", "rsassa"}, AKName: []byte{0, 11, 0xab}, AKPublic: []byte("public"),
		Banks: map[string][]uint{"sha1": {0}, "sha256": {0, 10, 15}}}, f.err
}

func (f *fakeTPM) Certify(_ context.Context, challenge []byte) (attest, signature []byte, err error) {
	return append([]byte("certified "), challenge...), []byte("signature"), f.err
}

func (f *fakeTPM) QuotePCRs(_ context.Context, nonce []byte, pcrs []uint) (*agent.Quote, error) {
	q := &agent.Quote{AttestRaw: append([]byte("quoted "), nonce...), SignatureRaw: []byte("signature"), Hash: tpm2.TPMAlgSHA256, PCRs: pcrs}
	for range pcrs {
		q.Values = append(q.Values, make([]byte, 32))
	}
	return q, f.err
}

// seen is a request that the fake verifier got.
type seen struct {
	step string
	at   time.Time
	path string
	body []byte
}

// handler answers a request in a test's own way; false leaves it to the fake.
type handler func(w http.ResponseWriter, r *http.Request) bool

// fakeVerifier answers as Keylime's verifier does: see its web/verifier/{session,attestation}_controller.py.
type fakeVerifier struct {
	t      *testing.T
	server *httptest.Server
	conns  chan net.Conn
	roots  *x509.CertPool

	mu       sync.Mutex
	down     bool
	requests []seen
	next     map[string][]handler // by step: what to do with the coming requests
	index    int                  // of the next attestation
	lifetime time.Duration        // of tokens
	expires  time.Time            // of the token
	interval string               // seconds_to_next_attestation, as JSON
	wanted   string               // evidence_requested, as JSON
}

const quoteWanted = `{"evidence_class": "certification", "evidence_type": "tpm_quote", "chosen_parameters": {"challenge": "MDEyMzQ1Njc4OWFiY2RlZg==",
	"hash_algorithm": "sha256", "signature_scheme": "rsassa", "selected_subjects": {"sha1": null, "sha256": [15, 0]}, "certification_key": {"key_size": 2048}}}`

// pipes is a listener for connections in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// serverCertificate is one of an authority of its own, for testHost.
func serverCertificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cv_ca"}, DNSNames: []string{testHost},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

func startFake(t *testing.T) *fakeVerifier {
	t.Helper()
	cert, roots := serverCertificate(t)
	f := &fakeVerifier{t: t, conns: make(chan net.Conn), roots: roots, next: map[string][]handler{}, lifetime: 180 * time.Second,
		interval: "5", wanted: "[" + quoteWanted + "]"}
	f.server = &httptest.Server{Listener: &pipes{conns: f.conns, closed: make(chan struct{})}, TLS: &tls.Config{Certificates: []tls.Certificate{cert}},
		Config: &http.Server{Handler: f, ErrorLog: log.New(io.Discard, "", 0)}}
	f.server.StartTLS()
	t.Cleanup(f.server.Close)
	return f
}

func (f *fakeVerifier) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if network != "tcp" || addr != testHost+":8881" {
		return nil, fmt.Errorf("dialled %s %s", network, addr)
	}
	f.mu.Lock()
	down := f.down
	f.mu.Unlock()
	if down {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	near, far := net.Pipe()
	select {
	case f.conns <- far:
		return near, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// then lets the coming requests of a step be answered by handlers, one each.
func (f *fakeVerifier) then(step string, handlers ...handler) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next[step] = append(f.next[step], handlers...)
}

// set changes something under the lock.
func (f *fakeVerifier) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// of lists the requests of some steps, all if none is named.
func (f *fakeVerifier) of(steps ...string) []seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []seen
	for _, s := range f.requests {
		if len(steps) == 0 || slices.Contains(steps, s.step) {
			out = append(out, s)
		}
	}
	return out
}

// answers makes a handler of an answer.
func answers(status int, header map[string]string, body string) handler {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		for name, value := range header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		return true
	}
}

func apiError(status int, code, detail string, header map[string]string) handler {
	return answers(status, header, fmt.Sprintf(`{"errors": [{"status": "%d", "code": %q, "detail": %q}]}`, status, code, detail))
}

func (f *fakeVerifier) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	step := map[string]string{"POST session": StepSession, "PATCH session": StepProof, "POST agent": StepNegotiate, "PATCH agent": StepEvidence}
	kind := "agent"
	if strings.HasPrefix(r.URL.Path, "/v3.0/sessions") {
		kind = "session"
	}
	at := step[r.Method+" "+kind]
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // cut off
	}
	f.mu.Lock()
	f.requests = append(f.requests, seen{step: at, at: time.Now(), path: r.URL.Path, body: body})
	var own handler
	if coming := f.next[at]; len(coming) > 0 {
		own, f.next[at] = coming[0], coming[1:]
	}
	f.mu.Unlock()
	if own != nil && own(w, r) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Header.Get("Content-Type") != "application/vnd.api+json" {
		f.t.Errorf("%s: content type %q", at, r.Header.Get("Content-Type"))
	}
	authorization := r.Header.Get("Authorization")
	switch {
	case kind == "session" && authorization != "":
		f.t.Errorf("%s: has an Authorization header", at)
	case kind == "agent" && (authorization != "Bearer "+testToken || !time.Now().Before(f.expires)):
		apiError(401, "", "Authentication token expired", nil)(w, r)
		return
	}
	f.answer(w, r, at, body)
}

// answer is what the verifier says when all is well.
func (f *fakeVerifier) answer(w http.ResponseWriter, r *http.Request, step string, body []byte) {
	now := time.Now().UTC()
	stamp := func(t time.Time) string { return t.Format("2006-01-02T15:04:05.000000+00:00") }
	switch step {
	case StepSession:
		answers(200, nil, `{"data": {"type": "session", "id": "5e55-10", "attributes": {"agent_id": "agent-1", "authentication_requested": [
			{"authentication_class": "pop", "authentication_type": "tpm_pop", "chosen_parameters": {"challenge": "c2Vzc2lvbi1jaGFsbGVuZ2U="}}]}}}`)(w, r)
	case StepProof:
		if !strings.Contains(string(body), base64.StdEncoding.EncodeToString([]byte("certified session-challenge"))) {
			f.t.Errorf("proof %s has no certification of the challenge", body)
		}
		f.expires = now.Add(f.lifetime)
		answers(200, nil, fmt.Sprintf(`{"data": {"type": "session", "id": "5e55-10", "attributes": {"evaluation": "pass", "token": %q,
			"response_received_at": %q, "token_expires_at": %q}}}`, testToken, stamp(now), stamp(f.expires)))(w, r)
	case StepNegotiate:
		location := r.URL.Path + "/" + strconv.Itoa(f.index)
		f.index++
		answers(201, map[string]string{"Location": location}, `{"data": {"type": "attestation", "attributes": {"stage": "awaiting_evidence",
			"evidence_requested": `+f.wanted+`}}}`)(w, r)
	case StepEvidence:
		f.expires = now.Add(f.lifetime)
		answers(202, nil, `{"data": {"type": "attestation", "attributes": {"stage": "evaluating_evidence"}}, "meta": {"seconds_to_next_attestation": `+
			f.interval+`}}`)(w, r)
	default:
		f.t.Errorf("unexpected %s %s", r.Method, r.URL.Path)
	}
}

// world is a fake verifier and an agent that attests to it.
type world struct {
	*fakeVerifier
	records
	*runner
	log *logBuffer
}

type logBuffer struct {
	sync.Mutex
	strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.Lock()
	defer b.Unlock()
	return b.Builder.Write(p)
}

// startWorld makes the two; change, if given, edits the configuration.
func startWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{fakeVerifier: startFake(t), log: &logBuffer{}}
	cfg := Config{Verifier: testHost + ":8881", VerifierCA: w.roots, Dial: w.dial, BootTime: func() time.Time { return time.Unix(1e9, 5e8) },
		Logger: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if change != nil {
		change(&cfg)
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	w.runner = &runner{cfg: &cfg, log: cfg.Logger, uuid: testAgent, tpm: &fakeTPM{}, client: newClient(&cfg), report: w.records.add}
	return w
}

// runFor attests for a time and then ends.
func (w *world) runFor(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	w.runner.run(ctx)
	w.client.close()
}
