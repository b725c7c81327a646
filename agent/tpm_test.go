package agent

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"

	"crypto/x509"
	"crypto/x509/pkix"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// hooked makes an OpenTPM that calls hook before each command.
func hooked(tpm *testTPM, hook func(tpm2.TPMCC)) func(context.Context) (transport.TPMCloser, error) {
	return func(context.Context) (transport.TPMCloser, error) {
		return &testConn{tpm: tpm, hook: hook}, nil
	}
}

func TestQuotesSurviveATPMRestart(t *testing.T) {
	f := startAgent(t, nil)
	f.quoteOf(t, "/v2.6/quotes/identity?nonce=before", "before")
	f.tpm.restart()
	f.quoteOf(t, "/v2.6/quotes/identity?nonce=after", "after")
	if err := f.Register(t.Context()); err != nil { // needs the EK again
		t.Fatal(err)
	}
}

// TestAKHandleTakenByAnother is a TPM that was reset and in which another client
// was quicker: the agent must not sign with that client's key.
func TestAKHandleTakenByAnother(t *testing.T) {
	f := startAgent(t, nil)
	if err := f.Register(t.Context()); err != nil { // unloads the EK
		t.Fatal(err)
	}
	f.tpm.restart()
	other, _ := f.tpm.open(t.Context())
	for range 2 { // takes the handles that EK and AK had
		_, err := tpm2.CreatePrimary{
			PrimaryHandle: tpm2.TPMRHOwner,
			InPublic:      tpm2.New2B(akTemplate(AKRSASSA, tpm2.TPMAlgSHA256)),
		}.Execute(&link{tpm: other})
		if err != nil {
			t.Fatal(err)
		}
	}
	// Room for the EK, so that the AK can be loaded again; its old handle is taken.
	if _, err := (tpm2.FlushContext{FlushHandle: tpm2.TPMHandle(0x80000000)}).Execute(other); err != nil {
		t.Fatal(err)
	}
	f.quoteOf(t, "/v2.6/quotes/identity?nonce=x", "x")
}

func TestAnotherClientMeddlesWithPCR16(t *testing.T) {
	tpm := startTPM(t)
	meddler, _ := tpm.open(t.Context())
	times := 2
	cfg := baseConfig(tpm, newCA(t, "cv_ca"))
	cfg.OpenTPM = hooked(tpm, func(command tpm2.TPMCC) {
		if command == tpm2.TPMCCPCRRead && times > 0 {
			times--
			_, err := tpm2.PCRExtend{
				PCRHandle: tpm2.AuthHandle{Handle: 16, Auth: tpm2.PasswordAuth(nil)},
				Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: make([]byte, 32)}}},
			}.Execute(meddler)
			if err != nil {
				t.Error(err)
			}
		}
	})
	a := newAgent(t, cfg)
	text, err := a.quote(t.Context(), []byte("n"), 0)
	if err != nil {
		t.Fatal(err)
	}
	q, err := ParseQuote(text)
	if err != nil {
		t.Fatal(err)
	}
	if value, _ := q.PCR(16); hex.EncodeToString(value) != wantPCR16(a.PayloadPublicPEM()) {
		t.Errorf("PCR 16 is %x", value)
	}
	times = 1000
	if _, err := a.quote(t.Context(), []byte("n"), 0); !errors.Is(err, errPCRsChanged) {
		t.Errorf("error %v, want errPCRsChanged", err)
	}
}

func TestConcurrentQuotesAreAllValid(t *testing.T) {
	f := startAgent(t, nil)
	var group sync.WaitGroup
	for i := range 24 {
		group.Go(func() {
			nonce := fmt.Sprintf("nonce%d", i)
			text, err := f.quote(t.Context(), []byte(nonce), uint32(i))
			if err != nil {
				t.Error(err)
				return
			}
			q, err := ParseQuote(text)
			if err != nil {
				t.Error(err)
				return
			}
			ak := f.AKPublic()
			if err := q.Verify(&ak, []byte(nonce)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func TestQuoteStopsWaitingWithItsContext(t *testing.T) {
	f := startAgent(t, nil)
	f.device.held <- struct{}{} // somebody else's operation
	defer func() { <-f.device.held }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.quote(ctx, []byte("n"), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestPersistentEKIsUsed(t *testing.T) {
	tpm := startTPM(t)
	conn, _ := tpm.open(t.Context())
	primary, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(tpm2.RSAEKTemplate)}.Execute(conn)
	if err != nil {
		t.Fatal(err)
	}
	evict := tpm2.EvictControl{
		Auth:             tpm2.TPMRHOwner,
		ObjectHandle:     &tpm2.NamedHandle{Handle: primary.ObjectHandle, Name: primary.Name},
		PersistentHandle: 0x81010001,
	}
	if _, err := evict.Execute(conn); err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: primary.ObjectHandle}).Execute(conn); err != nil {
		t.Fatal(err)
	}
	var created int
	cfg := baseConfig(tpm, newCA(t, "cv_ca"))
	cfg.OpenTPM = hooked(tpm, func(command tpm2.TPMCC) {
		if command == tpm2.TPMCCCreatePrimary {
			created++
		}
	})
	newAgent(t, cfg)
	if created != 0 {
		t.Errorf("%d primary keys made beside the persistent EK", created)
	}
	// The other kind of EK is not there and must be made.
	cfg.EKAlgorithm = EKECCP256
	newAgent(t, cfg)
	if created != 1 {
		t.Errorf("%d ECC EKs made, want 1", created)
	}
}

// defineNV writes data to an index with some room to spare.
func defineNV(t *testing.T, tpm *testTPM, index tpm2.TPMHandle, data []byte) {
	t.Helper()
	conn, _ := tpm.open(t.Context())
	padded := append(append([]byte(nil), data...), make([]byte, 40)...)
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.TPMRHOwner,
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: index, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(padded)),
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: true, NoDA: true},
		}),
	}.Execute(conn)
	if err != nil {
		t.Fatal(err)
	}
	for offset := 0; offset < len(padded); offset += nvChunk {
		public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(conn)
		if err != nil {
			t.Fatal(err)
		}
		_, err = tpm2.NVWrite{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: padded[offset:min(offset+nvChunk, len(padded))]},
			Offset:     uint16(offset),
		}.Execute(conn)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestEKCertificateAndChainAreRegistered(t *testing.T) {
	tpm, registrar, ca := startTPM(t), startRegistrar(t), newCA(t, "EK CA")
	cfg := baseConfig(tpm, ca)
	cfg.Registrar, cfg.EKAlgorithm = registrar.addr(), EKECCP256
	without := newAgent(t, cfg)
	if n := len(without.EKCertificates()); n != 0 {
		t.Fatalf("%d certificates in an empty TPM", n)
	}
	if err := without.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	if cert := registrar.record(without.UUID()).EKCert; cert != "" {
		t.Errorf("ekcert %q, want an empty one", cert)
	}
	if err := without.Close(); err != nil {
		t.Fatal(err)
	}

	leaf, err := x509.CreateCertificate(nil, &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "EK"},
		DNSNames: []string{strings.Repeat("x.", 400) + "test"}, // longer than one NV read
	}, ca.cert, without.ek.key, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	defineNV(t, tpm, nvECCCertificate, leaf)
	defineNV(t, tpm, nvChainFirst, ca.cert.Raw)
	with := newAgent(t, cfg)
	certs := with.EKCertificates()
	if len(certs) != 2 || string(certs[0]) != string(leaf) || string(certs[1]) != string(ca.cert.Raw) {
		t.Fatalf("%d certificates, want leaf and CA without the padding", len(certs))
	}
	if n := strings.Count(with.ek.certificatePEM(), "BEGIN CERTIFICATE"); n != 2 {
		t.Errorf("%d certificates in PEM", n)
	}
}
