package ekca_test

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/ekca"
)

// One row per way in which a certificate can be bad: exactly the errors named must be reported.
func TestVerify(t *testing.T) {
	all := []error{ekca.ErrNotEK, ekca.ErrWrongCA, ekca.ErrExpired, ekca.ErrNotYetValid, ekca.ErrRevoked}
	now := time.Now().Truncate(time.Second)
	for _, levels := range []int{0, 1, 2} {
		clock := now.Add(-10 * time.Hour)
		cfg := ekca.Config{Intermediates: levels, Now: func() time.Time { return clock }}
		ca := create(t, cfg)
		sameNames := create(t, cfg) // a stranger's CA under the very same names
		other := create(t, ekca.Config{Intermediates: levels, Now: cfg.Now, RootName: "Other root", IntermediateName: "Other CA"})
		revoked := issue(t, ca, ekca.Request{})
		revokedExpired := issue(t, ca, ekca.Request{NotAfter: now.Add(-time.Hour)})
		clock = now
		for _, c := range []*x509.Certificate{revoked, revokedExpired} {
			if err := ca.Revoke(c.SerialNumber, 1); err != nil {
				t.Fatal(err)
			}
		}
		for name, c := range map[string]struct {
			cert *x509.Certificate
			at   time.Time
			want []error
		}{
			"good RSA":              {issue(t, ca, ekca.Request{}), now, nil},
			"good ECC":              {issue(t, ca, ekca.Request{Public: eccEK()}), now, nil},
			"good at last second":   {issue(t, ca, ekca.Request{NotAfter: now.Add(time.Hour)}), now.Add(time.Hour), nil},
			"expired":               {issue(t, ca, ekca.Request{NotAfter: now.Add(-time.Hour)}), now, []error{ekca.ErrExpired}},
			"expired long ago":      {issue(t, ca, ekca.Request{NotBefore: now.Add(-99 * time.Hour), NotAfter: now.Add(-98 * time.Hour)}), now, []error{ekca.ErrExpired}},
			"not valid yet":         {issue(t, ca, ekca.Request{NotBefore: now.Add(time.Hour)}), now, []error{ekca.ErrNotYetValid}},
			"valid only later":      {issue(t, ca, ekca.Request{NotBefore: now.AddDate(50, 0, 0)}), now, []error{ekca.ErrNotYetValid}},
			"revoked":               {revoked, now, []error{ekca.ErrRevoked}},
			"before its revocation": {revoked, now.Add(-time.Second), nil},
			"revoked and expired":   {revokedExpired, now, []error{ekca.ErrRevoked, ekca.ErrExpired}},
			"other CA":              {issue(t, other, ekca.Request{}), now, []error{ekca.ErrWrongCA}},
			"other CA, same names":  {issue(t, sameNames, ekca.Request{}), now, []error{ekca.ErrWrongCA}},
			"other CA and expired":  {issue(t, other, ekca.Request{NotAfter: now.Add(-time.Hour)}), now, []error{ekca.ErrWrongCA, ekca.ErrExpired}},
			"a CA certificate":      {ca.Issuer(), now, []error{ekca.ErrNotEK}},
			"after the CA's end":    {issue(t, ca, ekca.Request{NotAfter: ca.Issuer().NotAfter.AddDate(1, 0, 0)}), ca.Issuer().NotAfter.AddDate(0, 1, 0), []error{ekca.ErrExpired}},
			"TLS server":            {foreignProfile(t, ca, func(c *x509.Certificate) { c.DNSNames = []string{"a.test"} }), now, []error{ekca.ErrNotEK}},
			"unknown critical extension": {foreignProfile(t, ca, func(c *x509.Certificate) {
				c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
			}), now, []error{ekca.ErrNotEK}},
			"no certificate": {nil, now, []error{ekca.ErrNotEK}},
		} {
			err := ca.Verify(c.cert, c.at)
			for _, e := range all {
				want := false
				for _, w := range c.want {
					want = want || w == e
				}
				if errors.Is(err, e) != want {
					t.Errorf("%d intermediates, %s: %q reported: %v, want %v; error: %v", levels, name, e, !want, want, err)
				}
			}
			if (err == nil) != (c.want == nil) {
				t.Errorf("%d intermediates, %s: error %v", levels, name, err)
			}
		}
	}
}

// issuingKey reads the key of the issuing CA from its folder, as a thief would.
func issuingKey(t *testing.T, ca *ekca.CA) any {
	t.Helper()
	name := "root.key"
	if len(ca.Chain()) > 1 {
		name = "intermediate-" + string(rune('0'+len(ca.Chain())-1)) + ".key"
	}
	data, err := os.ReadFile(filepath.Join(ca.Dir(), "keys", name))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// foreignProfile signs, with the CA's key, a good EK certificate in which change alters something.
func foreignProfile(t *testing.T, ca *ekca.CA, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	good := issue(t, ca, ekca.Request{Unrecorded: true})
	template := &x509.Certificate{
		SerialNumber: big.NewInt(77), NotBefore: good.NotBefore, NotAfter: good.NotAfter,
		BasicConstraintsValid: true, KeyUsage: good.KeyUsage, UnknownExtKeyUsage: good.UnknownExtKeyUsage,
	}
	for _, e := range good.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			template.ExtraExtensions = append(template.ExtraExtensions, e)
		}
	}
	change(template)
	if len(template.DNSNames) > 0 {
		template.ExtraExtensions = nil // so that the names given count
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Issuer(), good.PublicKey, issuingKey(t, ca))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestCheckProfile(t *testing.T) {
	ca := create(t, ekca.Config{})
	san := asn1.ObjectIdentifier{2, 5, 29, 17}
	for want, change := range map[string]func(*x509.Certificate){
		"":                         func(*x509.Certificate) {},
		"tcg-kp-EKCertificate":     func(c *x509.Certificate) { c.UnknownExtKeyUsage = nil },
		"keyUsage must":            func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature },
		"basicConstraints":         func(c *x509.Certificate) { c.BasicConstraintsValid = false },
		"no subjectAltName":        func(c *x509.Certificate) { c.ExtraExtensions = nil },
		"subjectAltName must be c": func(c *x509.Certificate) { c.ExtraExtensions[0].Critical = false },
		"malformed subjectAltName": func(c *x509.Certificate) { c.ExtraExtensions[0].Value = []byte{0x30, 0x05, 0x00} },
		"malformed directoryName": func(c *x509.Certificate) {
			c.ExtraExtensions[0].Value = []byte{0x30, 0x04, 0xa4, 0x02, 0x02, 0x00}
		},
		"lacks the TPM's manufacturer": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: san, Critical: true, Value: []byte{0x30, 0x04, 0xa4, 0x02, 0x30, 0x00}}}
		},
	} {
		cert := foreignProfileLax(t, ca, change)
		err := ekca.CheckProfile(cert)
		if want == "" {
			if err != nil {
				t.Errorf("a good certificate: %v", err)
			}
			continue
		}
		mustBe(t, err, ekca.ErrNotEK)
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q not in %q", want, err)
		}
	}
	// All at once.
	if err := ekca.CheckProfile(ca.Root()); err == nil || strings.Count(err.Error(), ";") < 2 {
		t.Errorf("the root departs in several ways, but the error is %v", err)
	}
}

// foreignProfileLax is foreignProfile for subjectAltNames that crypto/x509 refuses to read: the malformed value is put in after signing.
func foreignProfileLax(t *testing.T, ca *ekca.CA, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	var bad []byte
	cert := foreignProfile(t, ca, func(c *x509.Certificate) {
		good := c.ExtraExtensions[0].Value
		change(c)
		if len(c.ExtraExtensions) > 0 && string(c.ExtraExtensions[0].Value) != string(good) {
			bad, c.ExtraExtensions[0].Value = c.ExtraExtensions[0].Value, good
		}
	})
	for i, e := range cert.Extensions {
		if bad != nil && e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			cert.Extensions[i].Value = bad
		}
	}
	return cert
}

func TestModelValidate(t *testing.T) {
	if err := ekca.SimulatedModel().Validate(); err != nil {
		t.Error(err)
	}
	for want, m := range map[string]ekca.Model{
		"manufacturer":     {Manufacturer: "id:49424D", Model: "m", Version: "id:0001"},
		`manufacturer "id`: {Manufacturer: "id:49424D0G", Model: "m", Version: "id:0001"},
		"model":            {Manufacturer: "id:49424D00", Model: strings.Repeat("x", 65), Version: "id:0001"},
		`model "a\x00b"`:   {Manufacturer: "id:49424D00", Model: "a\x00b", Version: "id:0001"},
		"version":          {Manufacturer: "id:49424D00", Model: "m", Version: "id:001"},
	} {
		err := m.Validate()
		mustBe(t, err, ekca.ErrModel)
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q not in %q", want, err)
		}
	}
}

func TestRevocation(t *testing.T) {
	now := time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)
	ca := create(t, ekca.Config{Intermediates: 1, Now: func() time.Time { return now }})
	a, b, c := issue(t, ca, ekca.Request{}), issue(t, ca, ekca.Request{}), issue(t, ca, ekca.Request{})
	empty := readCRL(t, ca)
	if len(empty.RevokedCertificateEntries) != 0 {
		t.Errorf("%d entries in the first CRL", len(empty.RevokedCertificateEntries))
	}
	now = now.Add(time.Hour)
	for _, step := range []struct {
		cert   *x509.Certificate
		reason int
	}{{a, 1}, {b, 4}, {a, 9}} { // the third changes nothing
		if err := ca.Revoke(step.cert.SerialNumber, step.reason); err != nil {
			t.Fatal(err)
		}
	}
	now = now.Add(time.Hour)
	list := readCRL(t, ca)
	if list.Number.Cmp(empty.Number) <= 0 || !list.ThisUpdate.Equal(now) || !list.NextUpdate.Equal(now.Add(ekca.CRLValidity)) {
		t.Errorf("number %v after %v, from %v to %v", list.Number, empty.Number, list.ThisUpdate, list.NextUpdate)
	}
	reasons := map[string]int{}
	for _, e := range list.RevokedCertificateEntries {
		reasons[e.SerialNumber.String()] = e.ReasonCode
		if !e.RevocationTime.Equal(now.Add(-time.Hour)) {
			t.Errorf("revoked at %v", e.RevocationTime)
		}
	}
	if len(reasons) != 2 || reasons[a.SerialNumber.String()] != 1 || reasons[b.SerialNumber.String()] != 4 {
		t.Errorf("reasons %v", reasons)
	}
	again, err := ekca.Open(ca.Dir()) // another process
	if err != nil {
		t.Fatal(err)
	}
	mustBe(t, again.Verify(a, now), ekca.ErrRevoked)
	if err := again.Verify(c, now); err != nil {
		t.Error(err)
	}
	if r, err := again.Lookup(b); err != nil || r.Status != ekca.Revoked || r.Reason != 4 || !r.RevokedAt.Equal(now.Add(-time.Hour)) {
		t.Errorf("record %+v, error %v", r, err)
	}
	mustBe(t, ca.Revoke(big.NewInt(1), 1), ekca.ErrNotIssued)
	mustBe(t, ca.Revoke(nil, 1), ekca.ErrNotIssued)
	for _, reason := range []int{-1, 7, 8, 11} {
		if err := ca.Revoke(c.SerialNumber, reason); err == nil {
			t.Errorf("revoked for reason %d", reason)
		}
	}
}

func readCRL(t *testing.T, ca *ekca.CA) *x509.RevocationList {
	t.Helper()
	der, err := ca.CRL()
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := list.CheckSignatureFrom(ca.Issuer()); err != nil {
		t.Error(err)
	}
	return list
}
