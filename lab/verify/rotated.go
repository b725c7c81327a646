package verify

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/lab/authority"
)

// rotated proves, in a lab whose EK CA has been replaced, that the replacement is over: every node has a certificate of the active CA, and the store would
// have the tenant accept nothing that a retired one signed. A lab in which no CA was retired has none of these checks.
func (v *verification) rotated() []check {
	cas, err := v.target.EKCAs()
	if err != nil {
		return []check{{"active-ca", pointEK, "all nodes", func(context.Context) (string, error) {
			return "", fmt.Errorf("open the lab's EK CAs: %w", err)
		}}}
	}
	var active authority.CA
	var checks []check
	for _, ca := range cas {
		if ca.Active {
			active = ca
		}
		if ca.Retired {
			checks = append(checks, check{"retired-ca", pointEK, ca.Name, func(context.Context) (string, error) { return v.distrusted(ca) }})
		}
	}
	if len(checks) == 0 {
		return nil
	}
	return append(v.perNode("active-ca", pointEK, func(_ context.Context, n Node) (string, error) { return v.issuedBy(active, n) }), checks...)
}

// issuedBy checks that the active CA issued the certificate that the registrar holds of a node.
func (v *verification) issuedBy(active authority.CA, n Node) (string, error) {
	record, err := v.records.of(n)
	if err != nil {
		return "", err
	}
	if len(record.EKCert) == 0 {
		return "", errors.New("the registrar holds no EK certificate for this agent")
	}
	cert, err := x509.ParseCertificate(record.EKCert)
	if err != nil {
		return "", fmt.Errorf("parse the EK certificate: %w", err)
	}
	if active.CA == nil || !active.Signed(cert) {
		return "", fmt.Errorf("the EK certificate that the registrar holds is by %s, not by the active CA %s", cert.Issuer.CommonName, active.Name)
	}
	if _, err := active.Lookup(cert); err != nil {
		return "", fmt.Errorf("the key of the active CA %s signed the EK certificate, but it was not the CA that did: %w", active.Name, err)
	}
	return fmt.Sprintf("serial %X, issued by %s, the active CA", cert.SerialNumber, active.Name), nil
}

// distrusted checks that the store vouches neither for what a retired CA has issued nor for what its keys might still sign.
func (v *verification) distrusted(ca authority.CA) (string, error) {
	left, err := ca.InStore(v.target.CertStore())
	if err != nil {
		return "", err
	}
	if len(left) > 0 {
		return "", fmt.Errorf("the tpm_cert_store still has keys of the retired %s: %s; `keylab ek distrust %s` takes out what keylab put there", ca.Name, strings.Join(left, ", "), ca.Name)
	}
	issued, err := ca.Issued()
	if err != nil {
		return "", err
	}
	for _, r := range issued {
		cert, err := r.Certificate()
		if err != nil {
			return "", err
		}
		file, err := ekca.CheckStore(v.target.CertStore(), cert)
		if err == nil {
			return "", fmt.Errorf("the tpm_cert_store's %s vouches for serial %X, which the retired %s issued for %s", file, r.Serial, ca.Name, r.Label)
		}
		if !errors.Is(err, ekca.ErrNotInStore) {
			return "", err
		}
	}
	return fmt.Sprintf("no file of the tpm_cert_store has a key of it, nor would the tenant accept any of the %d certificates that it issued", len(issued)), nil
}
