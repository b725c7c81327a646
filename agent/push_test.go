package agent

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// pushAgent is an agent for the push model at a fake registrar.
func pushAgent(t *testing.T) (*Agent, *testTPM, *fakeRegistrar) {
	t.Helper()
	tpm, registrar := startTPM(t), startRegistrar(t)
	return newAgent(t, Config{OpenTPM: tpm.open, ContactAddress: "127.0.0.1", ContactPort: 9002, Registrar: registrar.addr(), Push: true}), tpm, registrar
}

func TestPushAgentRegistersWithoutACertificate(t *testing.T) {
	a, _, registrar := pushAgent(t)
	if err := a.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	record := registrar.record(a.UUID())
	if record == nil || !record.active || record.MTLSCert != "disabled" {
		t.Errorf("registered %+v, want an active record with mtls_cert \"disabled\"", record)
	}
	if a.ServerCertificate() != nil || a.PayloadPublicPEM() != "" {
		t.Error("an agent for the push model has a certificate or payload key")
	}
	if err := a.Serve(t.Context()); err == nil {
		t.Error("an agent for the push model serves")
	}
}

func TestCertifyProvesTheAK(t *testing.T) {
	a, tpm, _ := pushAgent(t)
	challenge := []byte("0123456789abcdef")
	for range 2 { // the second time after a power cycle
		raw, rawSignature, err := a.Certify(t.Context(), challenge)
		if err != nil {
			t.Fatal(err)
		}
		attest, err := unmarshalExactly[tpm2.TPMSAttest](raw)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := unmarshalExactly[tpm2.TPMTSignature](rawSignature)
		if err != nil {
			t.Fatal(err)
		}
		certified, err := attest.Attested.Certify()
		if err != nil {
			t.Fatal(err)
		}
		capabilities, err := a.Capabilities(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if string(certified.Name.Buffer) != string(capabilities.AKName) || string(attest.ExtraData.Buffer) != string(challenge) {
			t.Errorf("certifies name %x for %q, want %x for the challenge", certified.Name.Buffer, attest.ExtraData.Buffer, capabilities.AKName)
		}
		ak := a.AKPublic()
		key, err := tpm2.Pub(ak)
		if err != nil {
			t.Fatal(err)
		}
		rsassa, err := signature.Signature.RSASSA()
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(raw)
		if err := rsa.VerifyPKCS1v15(key.(*rsa.PublicKey), crypto.SHA256, sum[:], rsassa.Sig.Buffer); err != nil {
			t.Errorf("signature: %v", err)
		}
		tpm.restart()
	}
	for _, wrong := range []int{0, 65} {
		if _, _, err := a.Certify(t.Context(), make([]byte, wrong)); err == nil {
			t.Errorf("a challenge of %d bytes is certified", wrong)
		}
	}
}

func TestQuotePCRsQuotesWhatIsAsked(t *testing.T) {
	a, _, _ := pushAgent(t)
	q, err := a.QuotePCRs(t.Context(), []byte("nonce"), []uint{15, 0, 1, 2, 3, 4, 5, 6, 7, 15})
	if err != nil {
		t.Fatal(err)
	}
	ak := a.AKPublic()
	if err := q.Verify(&ak, []byte("nonce")); err != nil {
		t.Error(err)
	}
	if want := []uint{0, 1, 2, 3, 4, 5, 6, 7, 15}; !slices.Equal(q.PCRs, want) {
		t.Errorf("quoted PCRs %v, want %v", q.PCRs, want)
	}
	for _, wrong := range [][]uint{nil, {24}} {
		if _, err := a.QuotePCRs(t.Context(), []byte("nonce"), wrong); !errors.Is(err, errMask) {
			t.Errorf("PCRs %v: error %v, want errMask", wrong, err)
		}
	}
}

func TestCapabilitiesAreTheTPMs(t *testing.T) {
	a, _, _ := pushAgent(t)
	c, err := a.Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(c.SignatureSchemes, "rsassa") || !slices.Contains(c.SignatureSchemes, "ecdsa") || !slices.IsSorted(c.SignatureSchemes) {
		t.Errorf("signature schemes %v", c.SignatureSchemes)
	}
	if pcrs := c.Banks["sha256"]; len(pcrs) != 24 || pcrs[0] != 0 || pcrs[23] != 23 {
		t.Errorf("PCRs of the SHA-256 bank: %v", pcrs)
	}
	if public, err := tpm2.Unmarshal[tpm2.TPMTPublic](c.AKPublic); err != nil || public.Type != tpm2.TPMAlgRSA {
		t.Errorf("AK %x: %v", c.AKPublic, err)
	}
	if len(c.AKName) != 2+32 || c.AKName[1] != byte(tpm2.TPMAlgSHA256) {
		t.Errorf("name %x, want nameAlg SHA-256 and a digest", c.AKName)
	}
}
