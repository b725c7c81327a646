package main

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"time"

	"keylab.dev/keylab/ekca"
)

// describeEK says in words, as PEM comments would stand, what an EK certificate holds.
func describeEK(s streams, r ekca.Record, der []byte) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("parse the certificate of %s: %w", r.Label, err)
	}
	model, err := ekca.ParseModel(cert)
	if err != nil {
		return fmt.Errorf("read the TPM's description in the certificate of %s: %w", r.Label, err)
	}
	key := fmt.Sprintf("%T", cert.PublicKey)
	switch k := cert.PublicKey.(type) {
	case *rsa.PublicKey:
		key = fmt.Sprintf("RSA %d", k.N.BitLen())
	case *ecdsa.PublicKey:
		key = "ECC " + k.Params().Name
	}
	fmt.Fprintf(s.out, "node:          %s\n", r.Label)
	fmt.Fprintf(s.out, "serial:        %X (%s)\n", cert.SerialNumber, r.Status)
	fmt.Fprintf(s.out, "issuer:        %s\n", cert.Issuer)
	fmt.Fprintf(s.out, "valid:         %s to %s\n", cert.NotBefore.Format(time.DateTime), cert.NotAfter.Format(time.DateTime))
	fmt.Fprintf(s.out, "EK:            %s, SPKI SHA-256 %s\n", key, r.SPKI)
	fmt.Fprintf(s.out, "TPM:           manufacturer %s, model %s, version %s\n", model.Manufacturer, model.Model, model.Version)
	return nil
}
