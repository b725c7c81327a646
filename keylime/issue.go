package keylime

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"time"

	"keylab.dev/keylab/internal/keypem"
)

// ServerCertificate issues a TLS server certificate of the authority for another service, such as a receiver of the verifier's notices. It is on no disk.
func (p *PKI) ServerCertificate(commonName string, names []string, ips []net.IP) (tls.Certificate, error) {
	fail := func(err error) (tls.Certificate, error) {
		return tls.Certificate{}, fmt.Errorf("certificate of the %s: %w", commonName, err)
	}
	data, err := os.ReadFile(p.path(fileCAKey))
	if err != nil {
		return fail(err)
	}
	signer, err := keypem.Parse(data)
	if err != nil {
		return fail(fmt.Errorf("the authority's key: %w", err))
	}
	ca := &authority{cert: p.CACert, key: signer}
	der, own, err := ca.issue(PKIOptions{Now: time.Now(), Validity: 10 * 365 * 24 * time.Hour}, commonName, names, ips, serverAuth)
	if err != nil {
		return fail(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: own}, nil
}

// ClientCAs is the authority as a server's clients must have a certificate of it.
func (p *PKI) ClientCAs() *x509.CertPool { return p.roots }
