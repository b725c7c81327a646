package ekca

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Verify checks that cert is an EK certificate which this CA vouches for at the given time: profile, chain, dates of the certificate
// and of the whole chain, revocation. The error says everything that is wrong, and wraps the fitting ones of ErrNotEK, ErrWrongCA,
// ErrExpired, ErrNotYetValid and ErrRevoked. A certificate revoked after the given time was good then.
//
// A certificate that the CA's key signed and that no record holds passes, as it would anywhere: see Lookup.
func (ca *CA) Verify(cert *x509.Certificate, at time.Time) error {
	if cert == nil || len(cert.Raw) == 0 {
		return fmt.Errorf("verify EK certificate: %w: no certificate given", ErrNotEK)
	}
	problems := []error{CheckProfile(cert), checkDates(cert, "", at)}
	if ca.Signed(cert) {
		problems = append(problems, ca.checkChain(cert, at), ca.checkRevoked(cert, at))
	} else {
		problems = append(problems, fmt.Errorf("%w: its issuer is %q (key id %x), the CA is %q (key id %x)",
			ErrWrongCA, cert.Issuer, cert.AuthorityKeyId, ca.Issuer().Subject, ca.Issuer().SubjectKeyId))
	}
	var all error
	for _, p := range problems {
		switch {
		case p == nil:
		case all == nil:
			all = p
		default:
			all = fmt.Errorf("%w; %w", all, p)
		}
	}
	if all != nil {
		return fmt.Errorf("verify EK certificate %s: %w", serialName(cert.SerialNumber), all)
	}
	return nil
}

// Signed tells whether one of the CA's keys signed cert under the CA's name, whatever the dates and the record say.
func (ca *CA) Signed(cert *x509.Certificate) bool {
	return slices.ContainsFunc(ca.chain, func(above *x509.Certificate) bool {
		return bytes.Equal(cert.RawIssuer, above.RawSubject) && cert.CheckSignatureFrom(above) == nil
	})
}

// checkDates tests one certificate; what names it in the message, empty for the EK certificate itself.
func checkDates(cert *x509.Certificate, what string, at time.Time) error {
	switch {
	case at.Before(cert.NotBefore):
		return fmt.Errorf("%s%w: notBefore is %s, the time of the check %s", what, ErrNotYetValid, cert.NotBefore.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	case at.After(cert.NotAfter):
		return fmt.Errorf("%s%w: notAfter is %s, the time of the check %s", what, ErrExpired, cert.NotAfter.UTC().Format(time.RFC3339), at.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkChain has crypto/x509 walk the chain. It does not know subjectAltNames that hold a directoryName only and would refuse them as
// an unhandled critical extension; CheckProfile has read them.
func (ca *CA) checkChain(cert *x509.Certificate, at time.Time) error {
	for i, c := range ca.chain {
		if err := checkDates(c, "CA certificate "+ca.levelOf(i)+" ", at); err != nil {
			return err
		}
	}
	leaf := *cert
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(cert.UnhandledCriticalExtensions), func(id asn1.ObjectIdentifier) bool {
		return id.Equal(oidSubjectAltName)
	})
	opts := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // CheckProfile has looked for tcg-kp-EKCertificate
		// The leaf's own dates are checkDates' business; here a time is needed at which it was valid.
		CurrentTime: clamp(at, cert.NotBefore, cert.NotAfter),
	}
	opts.Roots.AddCert(ca.Root())
	for _, c := range ca.chain[:len(ca.chain)-1] {
		opts.Intermediates.AddCert(c)
	}
	_, err := leaf.Verify(opts)
	var (
		invalid   x509.CertificateInvalidError
		unhandled x509.UnhandledCriticalExtension
	)
	switch {
	case err == nil:
		return nil
	case !opts.CurrentTime.Equal(at) && errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return nil // only because of the substitute time: the CA's dates hold at the time asked for
	case errors.As(err, &unhandled):
		return fmt.Errorf("%w: %w", ErrNotEK, err)
	}
	return fmt.Errorf("%w: no valid chain: %w", ErrWrongCA, err)
}

func clamp(t, from, to time.Time) time.Time {
	if t.Before(from) {
		return from
	}
	if t.After(to) {
		return to
	}
	return t
}

func (ca *CA) checkRevoked(cert *x509.Certificate, at time.Time) error {
	r, err := ca.lookupSerial(cert.SerialNumber)
	if errors.Is(err, ErrNotIssued) {
		return nil
	}
	if err != nil {
		return err
	}
	if r.Status == Revoked && !at.Before(r.RevokedAt) {
		return fmt.Errorf("%w on %s for reason %d", ErrRevoked, r.RevokedAt.Format(time.RFC3339), r.Reason)
	}
	return nil
}
