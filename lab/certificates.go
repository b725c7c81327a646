package lab

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/report"
)

// Certificates are all that the lab's EK CAs have issued, those of the CAs themselves first. It reads the lab's folder, and needs no running lab.
func (l *Lab) Certificates() ([]report.Certificate, error) {
	var out []report.Certificate
	for _, c := range []struct{ name, dir string }{{"lab", l.dir.EKCA()}, {"stranger", l.dir.StrangerCA()}} {
		ca, err := ekca.Open(c.dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list, err := certificatesOf(c.name, ca)
		if err != nil {
			return nil, fmt.Errorf("EK CA %s: %w", c.name, err)
		}
		out = append(out, list...)
	}
	return out, nil
}

func certificatesOf(name string, ca *ekca.CA) ([]report.Certificate, error) {
	var out []report.Certificate
	chain := ca.Chain()
	for i := len(chain) - 1; i >= 0; i-- {
		c := chain[i]
		kind := "intermediate"
		if i == len(chain)-1 {
			kind = "root"
		}
		out = append(out, report.Certificate{
			Subject: c.Subject.CommonName, Kind: kind, CA: name, Issuer: c.Issuer.CommonName, Serial: fmt.Sprintf("%X", c.SerialNumber),
			SHA256: ekca.Fingerprint(c), Issued: c.NotBefore, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		})
	}
	records, err := ca.Issued()
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		cert := report.Certificate{
			Subject: r.Label, Kind: "EK", CA: name, Issuer: ca.Issuer().Subject.CommonName, Serial: fmt.Sprintf("%X", r.Serial),
			Issued: r.Issued, NotBefore: r.NotBefore, NotAfter: r.NotAfter, Revoked: r.RevokedAt,
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
