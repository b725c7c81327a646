package agentpod

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/tpmsim"
)

const patience = 30 * time.Second

// authority is a CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cv_ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

func (a *authority) file(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// issue certifies a new key for a name, and returns the files of both.
func (a *authority) issue(t *testing.T, name string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// startTPM serves a TPM as the container next to a node does.
func startTPM(t *testing.T) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "pod") // sockets' names are short: not t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tpm, err := tpmsim.Open(t.Context(), tpmsim.Options{Name: "node-1", Dir: filepath.Join(dir, "state"), Backend: tpmsim.Swtpm()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tpm.Close(context.Background()) })
	if _, err := tpm.Manufacture(t.Context(), tpmsim.ManufactureOptions{Algorithm: tpmsim.EKRSA2048, WithoutCertificate: true}); err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "tpm.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- tpm.ServeClients(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return socket
}

// registrar is Keylime's as far as an agent sees it. At first it is not there: it answers 503.
type registrar struct {
	*httptest.Server
	open    atomic.Bool
	refused atomic.Bool
	asked   chan struct{} // has one when it was asked in vain
	mu      sync.Mutex
	body    map[string]any
	active  bool
}

func startRegistrar(t *testing.T) *registrar {
	r := &registrar{asked: make(chan struct{}, 1)}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *registrar) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	answer := func(status int, results any) {
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string]any{"code": status, "status": http.StatusText(status), "results": results})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.open.Load():
		answer(http.StatusServiceUnavailable, nil)
		select {
		case r.asked <- struct{}{}:
		default:
		}
	case q.URL.Path == "/version":
		answer(200, map[string]any{"current_version": "2.6", "supported_versions": []string{"2.6"}})
	case r.refused.Load():
		answer(http.StatusForbidden, nil)
	case q.Method == http.MethodPost:
		r.body = nil
		err := json.NewDecoder(q.Body).Decode(&r.body)
		var blob string
		if err == nil {
			blob, err = challenge(r.body)
		}
		if err != nil {
			answer(400, err.Error())
			return
		}
		answer(200, map[string]string{"blob": blob})
	default:
		r.active = true // whether the proof is right is asked by package agent's own tests
		answer(200, map[string]any{})
	}
}

func (r *registrar) state() (body map[string]any, active bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.body, r.active
}

// challenge makes a credential for the EK and the AK that are to be registered.
func challenge(body map[string]any) (string, error) {
	public := func(field string) (*tpm2.TPMTPublic, error) {
		text, _ := body[field].(string)
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, err
		}
		sized, err := tpm2.Unmarshal[tpm2.TPM2BPublic](raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		return sized.Contents()
	}
	ek, err := public("ek_tpm")
	if err != nil {
		return "", err
	}
	ak, err := public("aik_tpm")
	if err != nil {
		return "", err
	}
	key, err := tpm2.ImportEncapsulationKey(ek)
	if err != nil {
		return "", err
	}
	name, err := tpm2.ObjectName(ak)
	if err != nil {
		return "", err
	}
	id, secret, err := tpm2.CreateCredential(rand.Reader, key, name.Buffer, make([]byte, 32))
	if err != nil {
		return "", err
	}
	// Magic and version of tpm2-tools' credential files.
	blob := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 0xbadcc0de), 1)
	blob = append(blob, tpm2.Marshal(tpm2.TPM2BIDObject{Buffer: id})...)
	return base64.StdEncoding.EncodeToString(append(blob, tpm2.Marshal(tpm2.TPM2BEncryptedSecret{Buffer: secret})...)), nil
}

// logBuffer is the pod's log.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// pod is an agent that runs.
type pod struct {
	log     logBuffer
	ended   chan error
	end     context.CancelFunc
	address string // where it listens, once it does
	ca      *authority
	server  tls.Certificate
}

// startPod runs the agent as its pod's manifest does: by a file, and the environment.
func startPod(t *testing.T, r *registrar) *pod {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{ended: make(chan error, 1), address: free.Addr().String(), ca: newAuthority(t)}
	free.Close()
	cert, key := newAuthority(t).issue(t, "node-1.agents.test")
	if p.server, err = tls.LoadX509KeyPair(cert, key); err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(p.address)
	_, registrarPort, _ := net.SplitHostPort(r.Listener.Addr().String())
	dir := t.TempDir()
	config := filepath.Join(dir, "agent.conf")
	text := fmt.Sprintf("[agent]\nuuid = \"hash_ek\"\nip = %q\nport = %s\ncontact_ip = \"node-1.agents.test\"\ncontact_port = 443\nregistrar_port = %s\n"+
		"trusted_client_ca = %q\nserver_cert = %q\nserver_key = %q\nkeylime_dir = %q\n", host, port, registrarPort, p.ca.file(t), cert, key, filepath.Join(dir, "state"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(EnvConfig, config)
	t.Setenv(EnvTPM, startTPM(t))
	ctx, cancel := context.WithCancel(context.Background())
	p.end = cancel
	go func() { p.ended <- Run(ctx, slog.New(slog.NewTextHandler(&p.log, nil))) }()
	t.Cleanup(func() {
		cancel()
		if t.Failed() {
			t.Log(p.log.String())
		}
	})
	return p
}

// stop ends the pod, as SIGTERM does.
func (p *pod) stop(t *testing.T) {
	t.Helper()
	p.end()
	if err := p.awaitEnd(t); err != nil {
		t.Errorf("the agent's end: %v", err)
	}
}

func (p *pod) awaitEnd(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.ended:
		return err
	case <-time.After(patience):
		t.Fatal("the agent does not end")
		return nil
	}
}

func await(t *testing.T, what string, ended <-chan error, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case err := <-ended:
			t.Fatalf("waiting for %s, the agent ended: %v", what, err)
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		case <-tick.C:
		}
	}
}

func listens(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// A pod is ready when its port is open: not before its agent is registered, however long the registrar takes, and then it serves whom the
// verifier's CA certified, with the certificate that it was given and that it registered.
func TestPod(t *testing.T) {
	r := startRegistrar(t)
	p := startPod(t, r)
	select {
	case <-r.asked:
	case <-time.After(patience):
		t.Fatal("the agent does not try to register")
	}
	if listens(p.address) {
		t.Error("the port is open although the agent is not registered")
	}
	r.open.Store(true)
	await(t, "the agent's port", p.ended, func() bool { return listens(p.address) })
	body, active := r.state()
	if !active {
		t.Error("the port is open, but the agent is not active")
	}
	block, _ := pem.Decode([]byte(fmt.Sprint(body["mtls_cert"])))
	if block == nil || !bytes.Equal(block.Bytes, p.server.Leaf.Raw) || body["ip"] != "node-1.agents.test" || body["port"] != 443.0 {
		t.Errorf("registered: %v", body)
	}

	cert, key := p.ca.issue(t, "verifier")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(p.server.Leaf) // Keylime's verifier trusts this one certificate
	transport := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, ServerName: "node-1.agents.test"}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport, Timeout: patience}).Get("https://" + p.address + "/v2.6/quotes/identity?nonce=abc123")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != 200 {
		t.Errorf("status %s", response.Status)
	}
	transport.CloseIdleConnections()
	p.stop(t)
	if listens(p.address) {
		t.Error("the port is open after the end")
	}
	// Who counts the quotes that were given for a nonce reads this.
	for _, want := range []string{"msg=request", "method=GET", "path=/v2.6/quotes/identity", "nonce=abc123", "status=200", "name=node-1.agents.test"} {
		if !strings.Contains(p.log.String(), want) {
			t.Errorf("no %q in the log", want)
		}
	}
}

// An agent that still tries to register ends when its pod is deleted.
func TestEndsWhileItRegisters(t *testing.T) {
	r := startRegistrar(t)
	p := startPod(t, r)
	select {
	case <-r.asked:
	case <-time.After(patience):
		t.Fatal("the agent does not try to register")
	}
	p.stop(t)
}

// What the registrar refuses is the pod's failure, in its words, and never a port that is open.
func TestRefused(t *testing.T) {
	r := startRegistrar(t)
	r.open.Store(true)
	r.refused.Store(true)
	p := startPod(t, r)
	if err := p.awaitEnd(t); !errors.Is(err, agent.ErrRegistrarRefused) || !strings.Contains(err.Error(), "403") {
		t.Errorf("error %v", err)
	}
	if listens(p.address) {
		t.Error("the port is open")
	}
}
