package lab

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/report"
)

// Certificates are all that the lab's EK CAs have issued, those of each CA itself first. It reads the lab's folder, and needs no running lab.
func (l *Lab) Certificates() ([]report.Certificate, error) {
	set, err := l.EKCAs()
	if err != nil {
		return nil, err
	}
	list, err := set.List()
	if err != nil {
		return nil, err
	}
	stranger, err := set.Get(authority.Stranger)
	switch {
	case err == nil:
		list = append(list, stranger)
	case !errors.Is(err, authority.ErrUnknown) && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	var out []report.Certificate
	for _, ca := range list {
		certificates, err := certificatesOf(ca)
		if err != nil {
			return nil, fmt.Errorf("EK CA %s: %w", ca.Name, err)
		}
		out = append(out, certificates...)
	}
	stolen, err := set.LeakedCertificates()
	if err != nil {
		return nil, err
	}
	for _, c := range stolen {
		out = append(out, report.Certificate{
			Subject: "a thief's TPM", Kind: "EK", CA: c.CA, Issuer: c.Issuer.CommonName, Serial: fmt.Sprintf("%X", c.SerialNumber),
			SHA256: ekca.Fingerprint(c.Certificate), NotBefore: c.NotBefore, NotAfter: c.NotAfter, Note: "made with a stolen key",
		})
	}
	return out, nil
}

func certificatesOf(ca authority.CA) ([]report.Certificate, error) {
	var out []report.Certificate
	chain := ca.Chain()
	for i := len(chain) - 1; i >= 0; i-- {
		c := chain[i]
		kind := "intermediate"
		if i == len(chain)-1 {
			kind = "root"
		}
		out = append(out, report.Certificate{
			Subject: c.Subject.CommonName, Kind: kind, CA: ca.Name, Issuer: c.Issuer.CommonName, Serial: fmt.Sprintf("%X", c.SerialNumber),
			SHA256: ekca.Fingerprint(c), Issued: c.NotBefore, NotBefore: c.NotBefore, NotAfter: c.NotAfter, Trusted: inStore(ca, i, len(chain)), Note: standing(ca),
		})
	}
	records, err := ca.Issued()
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		cert := report.Certificate{
			Subject: r.Label, Kind: "EK", CA: ca.Name, Issuer: ca.Issuer().Subject.CommonName, Serial: fmt.Sprintf("%X", r.Serial),
			Issued: r.Issued, NotBefore: r.NotBefore, NotAfter: r.NotAfter, Revoked: r.RevokedAt,
		}
		if r.Status == ekca.Revoked && r.Reason == superseded {
			cert.Note = "superseded"
		}
		data, err := os.ReadFile(r.File)
		if err != nil {
			return nil, err
		}
		if cert.SHA256, err = fingerprintPEM(data); err != nil {
			return nil, fmt.Errorf("%s: %w", r.File, err)
		}
		out = append(out, cert)
	}
	return out, nil
}

// inStore tells whether the certificate at a level of the chain, from 0 for the issuing one, is in the tpm_cert_store, or one by another CA for the
// same key.
func inStore(ca authority.CA, i, levels int) bool {
	switch {
	case i == 0 && len(ca.Cross) > 0 || ca.Level == authority.All:
		return true
	case ca.Level == authority.Issuer:
		return i == 0
	case ca.Level == authority.Root:
		return i == levels-1
	}
	return false
}

// superseded is the reason for a revocation that says that another certificate has taken its place (RFC 5280, section 5.3.1).
const superseded = 4

// standing says what is special about a CA.
func standing(ca authority.CA) string {
	switch {
	case ca.Leaked:
		return "its key has leaked"
	case ca.Retired:
		return "retired"
	case len(ca.Cross) > 0:
		return "certified by " + strings.Join(ca.Cross, ", ") + " too"
	}
	return ""
}

// fingerprintPEM is the SHA-256 of the first certificate in a PEM file.
func fingerprintPEM(data []byte) (string, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return "", errors.New("holds no PEM block")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", err
	}
	return ekca.Fingerprint(cert), nil
}
