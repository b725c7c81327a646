package keylime

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
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
	block, _ := pem.Decode(data)
	if block == nil {
		return fail(errors.New("the authority's key is no PEM"))
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fail(err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return fail(fmt.Errorf("the authority's key, %T, cannot sign", key))
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
