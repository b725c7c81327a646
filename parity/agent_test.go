package parity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/tpmsim"
)

// recordFile is what the Rust agent answered; `make parity` with --record writes it.
const recordFile = "testdata/rust-0.2.9.json"

func readRecord(t *testing.T) Record {
	t.Helper()
	data, err := os.ReadFile(filepath.FromSlash(recordFile))
	if err != nil {
		t.Fatal(err)
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// startTarget serves keylab's own agent, on a TPM of its own, on the loopback.
func startTarget(t *testing.T) *Target {
	t.Helper()
	if _, err := exec.LookPath("swtpm"); err != nil {
		t.Skip("swtpm is not installed: apt-get install swtpm")
	}
	backend, err := tpmsim.Select("swtpm")
	if err != nil {
		t.Fatal(err)
	}
	tpm, err := tpmsim.Open(t.Context(), tpmsim.Options{Name: "parity", Dir: t.TempDir(), Backend: backend})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tpm.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if _, err := tpm.Manufacture(t.Context(), tpmsim.ManufactureOptions{Algorithm: tpmsim.EKRSA2048, WithoutCertificate: true}); err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cv_ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, &x509.Certificate{Subject: pkix.Name{CommonName: "cv_ca"}}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(t.Context(), agent.Config{
		OpenTPM:        func(context.Context) (transport.TPMCloser, error) { return tpm.Client(), nil },
		ContactAddress: "agent.parity.test", ContactPort: 443, ClientCAs: pool, Listener: listener,
		RequestTimeout: 3 * time.Second, // nobody need wait for 30
	})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- a.Serve(context.Background()) }()
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	target := &Target{
		UUID: a.UUID(), ServerName: "agent.parity.test", Registered: a.ServerCertificate(), AK: tpm2.Marshal(tpm2.New2B(a.AKPublic())),
		Timeout: 30 * time.Second, Patience: time.Minute,
		Dial: func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
		},
	}
	if err := target.IssueOthers(ca, key); err != nil {
		t.Fatal(err)
	}
	return target
}

// keylab's own agent does what the Rust agent was seen doing, wherever no reason is known why it should not.
func TestOwnAgentAgainstTheRecord(t *testing.T) {
	record := readRecord(t)
	target := startTarget(t)
	var cases []Case
	for _, c := range Cases() {
		if c.Ingress {
			continue
		}
		if _, ok := record.Observations[c.ID()]; !ok {
			t.Errorf("%s is not in the record: record again", c.ID())
			continue
		}
		cases = append(cases, c)
	}
	own, err := target.DoAll(t.Context(), cases, false)
	if err != nil {
		t.Fatal(err)
	}
	direct, err := target.DoAll(t.Context(), cases, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		got := own[c.ID()]
		if c.Direct {
			got = direct[c.ID()]
		}
		want := record.Observations[c.ID()]
		switch {
		case !got.Same(want) && c.Reason == "":
			t.Errorf("%s\n  own agent:  %s\n  Rust agent: %s", c.ID(), got, want)
		case got.Same(want) && c.Reason != "":
			t.Errorf("%s: there is no difference, but a reason for one: %s", c.ID(), c.Reason)
		}
	}
}
