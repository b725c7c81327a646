package keylime

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/tpmsim"
)

// ekCA issues EK certificates, as a TPM maker would.
type ekCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newEKCA(t *testing.T, name string) *ekCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &ekCA{cert: cert, key: key}
}

func (ca *ekCA) issue(ek crypto.PublicKey, _ tpmsim.Algorithm) ([]byte, error) {
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageKeyEncipherment, Subject: pkix.Name{CommonName: "EK"}}
	return x509.CreateCertificate(rand.Reader, template, ca.cert, ek, ca.key)
}

func (ca *ekCA) trustIn(t *testing.T, store, file string) {
	t.Helper()
	data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
	if err := os.WriteFile(filepath.Join(store, file), data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// attester is an agent with a TPM of its own, registered and serving.
type attester struct {
	*agent.Agent
	ekCert []byte
	port   int
	gate   *gate
}

// gate is a listener that can turn everybody away.
type gate struct {
	net.Listener
	shut atomic.Bool
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil || !g.shut.Load() {
			return c, err
		}
		c.Close()
	}
}

func newAttester(t *testing.T, kl *Configured, ca *ekCA, host string) *attester {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm-") // the path of a unix socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tpm, err := tpmsim.Open(t.Context(), tpmsim.Options{Name: host, Dir: dir, Backend: tpmsim.Swtpm()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tpm.Kill() })
	id, err := tpm.Manufacture(t.Context(), tpmsim.ManufactureOptions{Algorithm: tpmsim.EKRSA2048, Certificate: ca.issue})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	door := &gate{Listener: l}
	roots := x509.NewCertPool()
	roots.AddCert(kl.PKI.CACert)
	port := l.Addr().(*net.TCPAddr).Port
	a, err := agent.New(t.Context(), agent.Config{
		OpenTPM:        func(context.Context) (transport.TPMCloser, error) { return tpm.Client(), nil },
		ContactAddress: host, ContactPort: port, Listener: door, ClientCAs: roots,
		Registrar: net.JoinHostPort(kl.RegistrarIP, fmt.Sprint(kl.RegistrarPort)),
		Logger:    slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent at %s: %v", host, err)
		}
		a.Close()
	})
	return &attester{Agent: a, ekCert: id.Certificate, port: port, gate: door}
}

// waitFor asks the verifier about an agent until ok, for at most half a minute.
func waitFor(t *testing.T, vc *VerifierClient, uuid, what string, ok func(*VerifierAgent, error) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		a, err := vc.Agent(ctx, uuid)
		if ok(a, err) {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited for %s; last: %+v, %v", what, a, err)
		case <-tick.C:
		}
	}
}

// The whole life of an agent: what a lab does with it, against the real services.
func TestAgentIsEnrolledAttestedAndDeleted(t *testing.T) {
	kl := services(t, func(c *Config) { c.MaxRetries, c.RetryInterval = 2, 100*time.Millisecond })
	en := enroller(t, kl, EnrollerOptions{})
	ca := newEKCA(t, "TPM Maker")
	ca.trustIn(t, kl.TPMCertStore, "maker.pem")
	newEKCA(t, "Another Maker").trustIn(t, kl.TPMCertStore, "another.pem")
	a := newAttester(t, kl, ca, testHost)
	id := a.UUID()

	reg, err := kl.RegistrarClient(nil).Agent(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if reg.IP != testHost || reg.Port != a.port || !bytes.Equal(reg.EKCert, a.ekCert) || !reg.MTLSCert.Equal(a.ServerCertificate()) || reg.RegCount != 1 {
		t.Errorf("registration %+v; want contact %s:%d and the agent's certificates", reg, testHost, a.port)
	}
	if ids, err := kl.RegistrarClient(nil).Agents(t.Context()); err != nil || len(ids) != 1 || ids[0] != id {
		t.Errorf("registrar's list %v, %v; want %s", ids, err, id)
	}

	res, err := en.Enroll(t.Context(), Request{UUID: id})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("enrolled in %s; Keylime's remarks: %q", res.Duration.Round(time.Millisecond), res.Message)
	if err := res.Err(); err != nil {
		t.Fatalf("%v\n%s", err, res.Output)
	}
	if !res.QuoteValidated || !res.EKChecked || res.EKStoreFile != "maker.pem" {
		t.Errorf("enrolled with %+v; want a validated quote, and the EK vouched for by maker.pem", res)
	}
	vc := kl.VerifierClient(nil)
	waitFor(t, vc, id, "three attestations", func(a *VerifierAgent, err error) bool { return err == nil && a.AttestationCount >= 3 })
	all, err := vc.Agents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := all[id]
	if got.OperationalState != GetQuote || got.AttestationStatus != "PASS" || time.Since(got.LastSuccessfulAttestation) > time.Minute ||
		got.LastReceivedQuote.IsZero() || got.IP != testHost || got.Port != a.port || got.HashAlg != "sha256" || got.SignAlg != "rsassa" {
		t.Errorf("verifier's view %+v", got)
	}

	if res, err := en.Enroll(t.Context(), Request{UUID: id}); err != nil || res.OK || !strings.Contains(res.Message, "conflict") {
		t.Errorf("enrolled twice: %+v, %v; want Keylime's refusal", res, err)
	}
	if res, err := en.Status(t.Context(), id); err != nil || !res.OK || !strings.Contains(res.Output, `"Get Quote"`) {
		t.Errorf("status: %+v, %v", res, err)
	}
	if res, err := en.Update(t.Context(), Request{UUID: id}); err != nil || !res.OK || !res.EKChecked {
		t.Errorf("update: %+v, %v", res, err)
	}

	// An agent that does not answer is given up; reactivation makes the verifier ask again.
	a.gate.shut.Store(true)
	waitFor(t, vc, id, "the failure", func(a *VerifierAgent, err error) bool { return err == nil && a.OperationalState.Stopped() })
	failed, err := vc.Agent(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if failed.OperationalState != Failed || failed.SeverityLevel == 0 || !strings.Contains(failed.LastEventID, "not_reachable") {
		t.Errorf("silent agent at the verifier: %+v", failed)
	}
	a.gate.shut.Store(false)
	if err := vc.Reactivate(t.Context(), id); err != nil {
		t.Error(err)
	}
	waitFor(t, vc, id, "an attestation after reactivation", func(a *VerifierAgent, err error) bool {
		return err == nil && a.OperationalState == GetQuote && a.AttestationCount > failed.AttestationCount
	})
	if err := vc.Stop(t.Context(), id); err != nil {
		t.Error(err)
	}
	waitFor(t, vc, id, "the stop", func(a *VerifierAgent, err error) bool { return err == nil && a.OperationalState == TenantFailed })

	if res, err := en.Delete(t.Context(), id); err != nil || !res.OK {
		t.Errorf("delete: %+v, %v", res, err)
	}
	if _, err := vc.Agent(t.Context(), id); !errors.Is(err, ErrNotFound) {
		t.Errorf("after the delete the verifier says %v; want ErrNotFound", err)
	}
	if err := kl.RegistrarClient(nil).Delete(t.Context(), id); err != nil {
		t.Error(err)
	}
	if _, err := kl.RegistrarClient(nil).Agent(t.Context(), id); !errors.Is(err, ErrNotFound) {
		t.Errorf("after the delete the registrar says %v; want ErrNotFound", err)
	}
}

func TestStrangersEKIsRefused(t *testing.T) {
	kl := services(t, nil)
	en := enroller(t, kl, EnrollerOptions{})
	newEKCA(t, "TPM Maker").trustIn(t, kl.TPMCertStore, "maker.pem")
	impostor := newEKCA(t, "TPM Maker") // the same name, another key
	a := newAttester(t, kl, impostor, testHost)
	res, err := en.Enroll(t.Context(), Request{UUID: a.UUID()})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("refused: %s", res.Message)
	if res.OK || res.EKChecked || res.EKStoreFile != "" || !strings.Contains(res.Message, "Invalid EK certificate") {
		t.Errorf("an EK of a strange CA: %+v; want a refusal that names the EK certificate", res)
	}
	if _, err := kl.VerifierClient(nil).Agent(t.Context(), a.UUID()); !errors.Is(err, ErrNotFound) {
		t.Errorf("the verifier says %v of a refused agent; want ErrNotFound", err)
	}
}

// Enrolments at the same time must not mix up agents.
func TestManyAtOnce(t *testing.T) {
	const n = 6
	kl := services(t, nil)
	en := enroller(t, kl, EnrollerOptions{})
	ca := newEKCA(t, "TPM Maker")
	ca.trustIn(t, kl.TPMCertStore, "maker.pem")
	var agents []*attester
	for range n {
		agents = append(agents, newAttester(t, kl, ca, testHost))
	}
	start := time.Now()
	var wg sync.WaitGroup
	for _, a := range agents {
		wg.Go(func() {
			res, err := en.Enroll(t.Context(), Request{UUID: a.UUID()})
			if err != nil {
				t.Error(err)
				return
			}
			if res.Err() != nil || !res.EKChecked || res.UUID != a.UUID() {
				t.Errorf("%+v", res)
			}
		})
	}
	wg.Wait()
	t.Logf("%d agents enrolled in %s", n, time.Since(start).Round(time.Millisecond))
	for _, a := range agents {
		waitFor(t, kl.VerifierClient(nil), a.UUID(), "two attestations", func(v *VerifierAgent, err error) bool {
			return err == nil && v.AttestationCount >= 2 && v.Port == a.port
		})
	}
}
