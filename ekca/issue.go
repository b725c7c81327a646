package ekca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"time"
)

// Request asks for one EK certificate.
type Request struct {
	Public crypto.PublicKey // the EK: RSA of 2048 bits or more, or ECC P-256, P-384, P-521 (*ecdsa or *ecdh)
	TPM    Model            // zero = SimulatedModel
	// Revision of the TPM Library specification, in hundredths (164 = 1.64); zero = DefaultRevision.
	Revision int
	// NotBefore and NotAfter, with a resolution of seconds, may lie anywhere, also outside the CA's own validity. Zero stands for now
	// and for Config.EKValidity later; when only one is given and now is on its wrong side, the other keeps that distance to it.
	NotBefore, NotAfter time.Time
	// Serial must be positive, of at most 20 octets, and new to this CA; nil = random, 20 octets.
	Serial *big.Int
	// Label is a free name for the record, e.g. the node's; it does not enter the certificate.
	Label string
	// Unrecorded leaves no trace in the record: what a thief of the CA's key would do. Issued and CRL never know of it.
	Unrecorded bool
}

// Issue signs an EK certificate and records it. It is not in the record when an error is returned. Errors wrap ErrModel,
// ErrUnsupportedKey or ErrSerialTaken where they apply.
func (ca *CA) Issue(r Request) (*x509.Certificate, error) {
	cert, err := ca.issue(r)
	if err != nil {
		return nil, fmt.Errorf("issue EK certificate for %q: %w", r.Label, err)
	}
	return cert, nil
}

func (ca *CA) issue(r Request) (*x509.Certificate, error) {
	if r.TPM == (Model{}) {
		r.TPM = SimulatedModel()
	}
	if err := r.TPM.Validate(); err != nil {
		return nil, err
	}
	if r.Revision == 0 {
		r.Revision = DefaultRevision
	}
	if r.Revision < 0 {
		return nil, fmt.Errorf("revision %d of the TPM specification is negative", r.Revision)
	}
	public, usage, err := endorsementKey(r.Public)
	if err != nil {
		return nil, err
	}
	from, to, err := ca.dates(r.NotBefore, r.NotAfter)
	if err != nil {
		return nil, err
	}
	serial := r.Serial
	if serial == nil {
		if serial, err = randomSerial(); err != nil {
			return nil, err
		}
	} else if serial.Sign() <= 0 || serial.BitLen() > maxSerialOctets*8-1 {
		return nil, fmt.Errorf("serial number %x is not positive, or longer than %d octets (RFC 5280, section 4.1.2.2)", serial, maxSerialOctets)
	}
	name, err := r.TPM.subjectAltName()
	if err != nil {
		return nil, err
	}
	specification, err := specificationExtension(r.Revision)
	if err != nil {
		return nil, err
	}

	template := &x509.Certificate{
		SerialNumber:          serial,
		NotBefore:             from,
		NotAfter:              to,
		BasicConstraintsValid: true,
		KeyUsage:              usage,
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{oidEKCertificate},
		ExtraExtensions:       []pkix.Extension{name, specification},
	}
	if ca.cfg.CRLURL != "" {
		template.CRLDistributionPoints = []string{ca.cfg.CRLURL}
	}
	if ca.cfg.AIAURL != "" {
		template.IssuingCertificateURL = []string{ca.cfg.AIAURL}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Issuer(), public, ca.signer)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the certificate back: %w", err)
	}
	if r.Unrecorded {
		return cert, nil
	}
	if err := ca.record(cert, r.Label); errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: %s: %w", ErrSerialTaken, serialName(serial), err)
	} else if err != nil {
		return nil, fmt.Errorf("record serial number %s: %w", serialName(serial), err)
	}
	return cert, nil
}

// dates fills in what the request left open.
func (ca *CA) dates(from, to time.Time) (time.Time, time.Time, error) {
	now := ca.cfg.Now()
	switch {
	case from.IsZero() && !to.IsZero() && to.Before(now):
		from = to.Add(-ca.cfg.EKValidity) // already expired
	case from.IsZero():
		from = now
	}
	from = from.UTC().Truncate(time.Second)
	if to.IsZero() {
		to = from.Add(ca.cfg.EKValidity)
		if end := ca.Issuer().NotAfter; to.After(end) && from.Before(end) {
			to = end
		}
	}
	to = to.UTC().Truncate(time.Second)
	if !to.After(from) {
		return from, to, fmt.Errorf("notAfter %s is not after notBefore %s", to.Format(time.RFC3339), from.Format(time.RFC3339))
	}
	return from, to, nil
}
