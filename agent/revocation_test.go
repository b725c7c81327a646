package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"
)

// notifier is a verifier's key for notices, and its certificate.
type notifier struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

func newNotifier(t testing.TB) notifier {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return notifier{key, certify(t, key)}
}

func certify(t testing.TB, key crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "RevocationNotifier"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (n notifier) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: n.cert.Raw}))
}

// sign signs as Keylime's verifier does (crypto.rsa_sign): the longest salt of a 2048-bit key has 222 bytes.
func (n notifier) sign(t testing.TB, message string, salt int) string {
	t.Helper()
	sum := sha256.Sum256([]byte(message))
	signature, err := rsa.SignPSS(rand.Reader, n.key, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: salt})
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(signature)
}

const someNotice = `{"type": "revocation", "agent_id": "abc", "event_id": "pcr_validation.invalid_pcr_0", "severity_label": "emergency", "event_time": "Tue"}`

func TestCheckNotice(t *testing.T) {
	ours, other := newNotifier(t), newNotifier(t)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cert               *x509.Certificate
		message, signature string
		want               error
	}{
		"right":             {ours.cert, someNotice, ours.sign(t, someNotice, 222), nil},
		"no signature":      {ours.cert, someNotice, "", ErrUnsigned},
		"no certificate":    {nil, someNotice, ours.sign(t, someNotice, 222), ErrNoNotifier},
		"no RSA key":        {certify(t, curve), someNotice, ours.sign(t, someNotice, 222), ErrNoNotifier},
		"another's key":     {ours.cert, someNotice, other.sign(t, someNotice, 222), ErrForged},
		"another message":   {ours.cert, someNotice + " ", ours.sign(t, someNotice, 222), ErrForged},
		"a shorter salt":    {ours.cert, someNotice, ours.sign(t, someNotice, 32), ErrForged}, // the Rust agent takes the longest alone
		"no base64":         {ours.cert, someNotice, "*", ErrForged},
		"too short to be a": {ours.cert, someNotice, "c2ln", ErrForged},
	} {
		if err := CheckNotice(c.cert, c.message, c.signature); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	n, err := ParseNotice(someNotice)
	if want := (Notice{"revocation", "abc", "pcr_validation.invalid_pcr_0", "emergency", "Tue"}); err != nil || n != want {
		t.Errorf("read %+v, %v, want %+v", n, err, want)
	}
	if _, err := ParseNotice("no JSON"); err == nil {
		t.Error("a notice that is no JSON was read")
	}
}

// An agent checks notices by the certificate that came with its last payload that had one.
func TestNoticesAreChecked(t *testing.T) {
	first, second := newNotifier(t), newNotifier(t)
	var got []Revocation
	f, _, log := secure(t, func(cfg *Config) {
		cfg.ExtractPayload = true
		cfg.OnRevocation = func(r Revocation) { got = append(got, r) }
	})
	tell := func(by notifier, want error) {
		t.Helper()
		signature := by.sign(t, someNotice, 222)
		if status, e := f.post(t, "/v2.6/notifications/revocation", map[string]string{"msg": someNotice, "signature": signature}); status != 200 {
			t.Fatalf("a notice: %d %s", status, e.Status)
		}
		kept := f.Revocations()
		for _, r := range []Revocation{got[len(got)-1], kept[len(kept)-1]} {
			if !errors.Is(r.Problem, want) || r.Message != someNotice || r.Signature != signature {
				t.Errorf("%+v, want %v", r, want)
			}
		}
	}
	loaded := func(times int) {
		t.Helper()
		await(t, "the certificate to be loaded", func() bool { return strings.Count(log.String(), "revocation certificate loaded") == times })
	}
	tell(first, ErrNoNotifier)
	f.deliverTo(t, zipOf(t, NotifierCertificate, first.pem()))
	loaded(1)
	tell(first, nil)
	tell(second, ErrForged)
	f.deliverTo(t, zipOf(t, "note", "no certificate"))
	f.payloads.idle.Wait()
	tell(first, nil)
	f.deliverTo(t, zipOf(t, NotifierCertificate, second.pem()))
	loaded(2)
	tell(second, nil)
	tell(first, ErrForged)
	f.deliverTo(t, zipOf(t, NotifierCertificate, "no certificate"))
	await(t, "word of a bad certificate", func() bool { return strings.Contains(log.String(), "is no PEM certificate") })
	tell(second, ErrNoNotifier)
}
