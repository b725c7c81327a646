package push

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/tpmsim"
)

// policyPCR is what the tests' policies require; nothing but the tests extends it.
const policyPCR = 15

// stack is a real registrar and a real verifier in push mode.
type stack struct {
	*keylime.Configured
	enroller *keylime.Enroller
	dir      string
	stop     func() // ends the verifier
}

func startStack(t *testing.T, change func(*keylime.Config)) *stack {
	t.Helper()
	inst, err := keylime.EnsureInstalled(t.Context(), keylime.InstallOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pki, err := keylime.CreatePKI(filepath.Join(dir, "pki"), keylime.PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := keylime.Config{Dir: filepath.Join(dir, "keylime"), PKI: pki, Installation: inst, Mode: keylime.Push, QuoteInterval: time.Second}
	if change != nil {
		change(&cfg)
	}
	kl, err := keylime.WriteConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{Configured: kl, dir: dir}
	s.launch(t, kl.Registrar())
	s.startVerifier(t)
	life, end := context.WithCancel(context.Background())
	if s.enroller, err = keylime.StartEnroller(life, kl, keylime.EnrollerOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closing, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.enroller.Close(closing); err != nil && !errors.Is(err, keylime.ErrEnrollerEnded) {
			t.Errorf("closing the enroller: %v", err)
		}
		end()
	})
	s.ready(t, kl.Registrar())
	s.ready(t, kl.Verifier())
	return s
}

// launch starts a service; the returned function ends it and waits for its end.
func (s *stack) launch(t *testing.T, c keylime.Command) (stop func()) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, c.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	life, end := context.WithCancel(context.Background())
	cmd := c.Exec(life)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		end()
		_ = cmd.Wait() // it was told to end by a signal
		_ = log.Close()
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("log of the %s:\n%s", c.Name, text)
		}
	})
	return stop
}

func (s *stack) startVerifier(t *testing.T) {
	t.Helper()
	s.stop = s.launch(t, s.Verifier())
}

func (s *stack) ready(t *testing.T, c keylime.Command) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Ready(ctx, nil); err != nil {
		t.Fatal(err)
	}
}

// enrol gives an agent to the verifier as a user would, with a policy for one PCR.
func (s *stack) enrol(t *testing.T, uuid, policy string) {
	t.Helper()
	res, err := s.enroller.Enroll(t.Context(), keylime.Request{UUID: uuid, PushModel: true, TPMPolicy: policy})
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Err(); err != nil {
		t.Fatalf("%v\n%s", err, res.Output)
	}
}

// at waits until the verifier says of an agent what ok wants.
func (s *stack) at(t *testing.T, uuid, what string, ok func(*keylime.VerifierAgent) bool) *keylime.VerifierAgent {
	t.Helper()
	client := s.VerifierClient(nil)
	defer client.Close()
	var last string
	var found *keylime.VerifierAgent
	eventually(t, what, func() string { return last }, func() bool {
		a, err := client.Agent(t.Context(), uuid)
		last = fmt.Sprintf("%+v, %v", a, err)
		found = a
		return err == nil && ok(a)
	})
	return found
}

// eventually waits for a condition, for at most a minute.
func eventually(t *testing.T, what string, last func() string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("waited a minute for %s; last: %s", what, last())
		case <-tick.C:
		}
	}
}

// records keeps what an agent reports.
type records struct {
	sync.Mutex
	all []Attestation
}

func (r *records) add(a Attestation) {
	r.Lock()
	defer r.Unlock()
	r.all = append(r.all, a)
}

func (r *records) list() []Attestation {
	r.Lock()
	defer r.Unlock()
	return append([]Attestation(nil), r.all...)
}

// find waits for a record that ok wants.
func (r *records) find(t *testing.T, what string, ok func(*Attestation) bool) Attestation {
	t.Helper()
	var found Attestation
	eventually(t, what, func() string { return fmt.Sprintf("%+v", r.list()) }, func() bool {
		for _, a := range r.list() {
			if ok(&a) {
				found = a
				return true
			}
		}
		return false
	})
	return found
}

// certifyEK signs with a key that nobody knows: no EK is checked in the push model.
func certifyEK(ek crypto.PublicKey, _ tpmsim.Algorithm) ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	return x509.CreateCertificate(rand.Reader, template, template, ek, key)
}

// node is an agent with a TPM of its own, registered and running.
type node struct {
	*Agent
	records
	tpm *tpmsim.TPM
}

func startNode(t *testing.T, s *stack, change func(*Config)) *node {
	t.Helper()
	tpm := startTPM(t)
	if _, err := tpm.Manufacture(t.Context(), tpmsim.ManufactureOptions{Algorithm: tpmsim.EKRSA2048, Certificate: certifyEK}); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(s.PKI.CACert)
	n := &node{tpm: tpm}
	cfg := Config{
		OpenTPM:       func(context.Context) (transport.TPMCloser, error) { return tpm.Client(), nil },
		Registrar:     net.JoinHostPort(s.RegistrarIP, fmt.Sprint(s.RegistrarPort)),
		Verifier:      s.VerifierAddr,
		VerifierCA:    roots,
		Interval:      time.Second,
		Logger:        slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		OnAttestation: n.add,
	}
	if change != nil {
		change(&cfg)
	}
	n.start(t, cfg)
	return n
}

// start makes the agent, registers and runs it until the test ends or it is closed.
func (n *node) start(t *testing.T, cfg Config) {
	t.Helper()
	a, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.Agent = a
	if err := a.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- a.Run(context.Background()) }()
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// untouched is the policy that policyPCR has its value after a reset.
var untouched = fmt.Sprintf(`{"%d": ["%s"]}`, policyPCR, strings.Repeat("0", 64))

// The whole life of a push agent against the real services: not enrolled, attested, through a restart of the verifier, and failing.
func TestRealVerifier(t *testing.T) {
	s := startStack(t, nil)
	state := t.TempDir()
	n := startNode(t, s, func(cfg *Config) { cfg.StateDir = state })
	id := n.UUID()

	registered, err := s.RegistrarClient(nil).Agent(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if registered.MTLSCert != nil || registered.Port != 9002 {
		t.Errorf("registered %+v, want no certificate", registered)
	}
	n.find(t, "an attempt before the enrolment", func(a *Attestation) bool {
		return errors.Is(a.Err, ErrNotEnrolled) && a.Verdict == NotSent && a.Status(StepProof) == 200
	})
	s.enrol(t, id, untouched)
	passed := s.at(t, id, "three attestations that passed", func(a *keylime.VerifierAgent) bool {
		return a.AttestationCount >= 3 && a.AttestationStatus == "PASS"
	})
	record := n.find(t, "the record of an accepted attestation", func(a *Attestation) bool { return a.Verdict == Accepted && a.Index >= 1 })
	if want := fmt.Sprintf("/v3.0/agents/%s/attestations/%d", id, record.Index); record.Location != want || record.Err != nil ||
		record.Status(StepNegotiate) != 201 || record.Status(StepEvidence) != 202 || record.Next != time.Second ||
		len(record.PCRs) != 1 || record.PCRs[0] != policyPCR {
		t.Errorf("record %+v, want location %s, PCR %d, statuses 201 and 202, the next after the verifier's 1 s", record, want, policyPCR)
	}
	if nonce, err := hex.DecodeString(record.Challenge); err != nil || len(nonce) != 16 {
		t.Errorf("challenge %q, want 16 bytes in hexadecimal: %v", record.Challenge, err)
	}
	if stats := n.Stats(); stats.Sessions == 0 || stats.Accepted < 3 {
		t.Errorf("stats %+v", stats)
	}

	s.stop()
	broken := time.Now()
	n.find(t, "an attempt while the verifier is away", func(a *Attestation) bool {
		return a.Started.After(broken) && a.Err != nil && a.Verdict == NotSent
	})
	s.startVerifier(t)
	s.ready(t, s.Verifier())
	s.at(t, id, "three more attestations after the verifier's restart", func(a *keylime.VerifierAgent) bool {
		return a.AttestationCount >= passed.AttestationCount+3 && a.AttestationStatus == "PASS"
	})

	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	before := s.at(t, id, "the state without an agent", func(*keylime.VerifierAgent) bool { return true })
	n.start(t, n.cfg)
	s.at(t, id, "two more attestations after the agent's restart", func(a *keylime.VerifierAgent) bool {
		return a.AttestationCount >= before.AttestationCount+2 && a.AttestationStatus == "PASS"
	})

	if err := n.tpm.ExtendPCR(t.Context(), policyPCR, tpm2.TPMAlgSHA256, make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	failed := s.at(t, id, "the failure of an agent whose PCR changed", func(a *keylime.VerifierAgent) bool {
		return a.AttestationStatus == "FAIL"
	})
	since := time.Now()
	n.find(t, "evidence accepted, to be judged again, after the failure", func(a *Attestation) bool {
		return a.Started.After(since) && a.Verdict == Accepted
	})
	after := s.at(t, id, "the state after that", func(*keylime.VerifierAgent) bool { return true })
	if after.AttestationStatus != "FAIL" || after.AttestationCount != failed.AttestationCount {
		t.Errorf("after the failure %s with %d passed attestations, want FAIL and still %d",
			after.AttestationStatus, after.AttestationCount, failed.AttestationCount)
	}
}
