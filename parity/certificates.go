package parity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"path/filepath"
	"time"
)

// Files of a [keylime.PKI]'s folder.
const (
	caCertFile = "cacert.crt"
	caKeyFile  = "ca-private.pem"
)

// otherCertificates makes the client certificates that an agent must refuse, with the authority in a folder of Keylime's certificates.
func (t *Target) otherCertificates(pki string) error {
	ca, err := tls.LoadX509KeyPair(filepath.Join(pki, caCertFile), filepath.Join(pki, caKeyFile))
	if err != nil {
		return fmt.Errorf("the certificate authority of Keylime: %w", err)
	}
	signer, ok := ca.PrivateKey.(crypto.Signer)
	if !ok {
		return fmt.Errorf("the certificate authority of Keylime: a key of type %T cannot sign", ca.PrivateKey)
	}
	return t.IssueOthers(ca.Leaf, signer)
}

// IssueOthers makes the client certificates that an agent must refuse, with the authority (cv_ca) whose certificates it takes.
func (t *Target) IssueOthers(ca *x509.Certificate, key crypto.Signer) error {
	now := time.Now()
	strangerKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("key of another CA: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: ca.Subject, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}, &x509.Certificate{Subject: ca.Subject}, strangerKey.Public(), strangerKey)
	if err != nil {
		return fmt.Errorf("certificate of another CA: %w", err)
	}
	stranger, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("certificate of another CA: %w", err)
	}
	for _, c := range []struct {
		into          *tls.Certificate
		ca            *x509.Certificate
		key           crypto.Signer
		begin, end    time.Duration
		extendedUsage x509.ExtKeyUsage
	}{
		{&t.Client, ca, key, -time.Hour, time.Hour, x509.ExtKeyUsageClientAuth},
		{&t.Stranger, stranger, strangerKey, -time.Hour, time.Hour, x509.ExtKeyUsageClientAuth},
		{&t.Expired, ca, key, -2 * time.Hour, -time.Hour, x509.ExtKeyUsageClientAuth},
		{&t.Future, ca, key, time.Hour, 2 * time.Hour, x509.ExtKeyUsageClientAuth},
		{&t.Server, ca, key, -time.Hour, time.Hour, x509.ExtKeyUsageServerAuth},
	} {
		if c.into == &t.Client && len(t.Client.Certificate) > 0 {
			continue
		}
		leaf, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return fmt.Errorf("key of a client: %w", err)
		}
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "tenant"}, NotBefore: now.Add(c.begin), NotAfter: now.Add(c.end),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{c.extendedUsage}, BasicConstraintsValid: true,
		}, c.ca, leaf.Public(), c.key)
		if err != nil {
			return fmt.Errorf("certificate of a client: %w", err)
		}
		*c.into = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: leaf}
	}
	return nil
}
