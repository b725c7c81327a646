package ekca

import (
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"time"
)

// CrossSign certifies the issuing CA of another CA: the certificate has other's subject and key, and this CA's signature, so that whoever builds chains to
// this CA's root accepts EK certificates that other issues. It is made by the lowest level that may certify a CA (RFC 5280, section 4.2.1.9, path length),
// the one above the issuing CA; the error wraps ErrPathLength when there is none, as where the root issues. Nothing is recorded.
func (ca *CA) CrossSign(other *CA) (*x509.Certificate, error) {
	cert, err := ca.crossSign(other)
	if err != nil {
		return nil, fmt.Errorf("have EK CA %s certify %q: %w", ca.dir, other.Issuer().Subject, err)
	}
	return cert, nil
}

func (ca *CA) crossSign(other *CA) (*x509.Certificate, error) {
	if len(ca.chain) < 2 {
		return nil, fmt.Errorf("%w: %q issues EK certificates itself, with a path length of 0", ErrPathLength, ca.Root().Subject)
	}
	parent, subject := ca.chain[1], other.Issuer()
	signer, err := readKey(filepath.Join(ca.dir, keysDir, ca.levelOf(1)+".key"))
	if err != nil {
		return nil, err
	}
	serial, err := randomSerial()
	if err != nil {
		return nil, err
	}
	from, to := ca.cfg.Now().UTC().Truncate(time.Second), subject.NotAfter
	if parent.NotAfter.Before(to) {
		to = parent.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: subject.Subject, SubjectKeyId: subject.SubjectKeyId, NotBefore: from, NotAfter: to,
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true, KeyUsage: subject.KeyUsage,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, subject.PublicKey, signer)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the certificate back: %w", err)
	}
	return cert, nil
}
