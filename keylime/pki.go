package keylime

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"keylab.dev/keylab/internal/atomicfile"
)

// Key algorithms of the services' certificates.
const (
	ECDSAP256 = "ecdsa-p256" // the default: made in no time, and the quickest handshakes
	RSA2048   = "rsa-2048"   // what Keylime makes itself
)

// PKIOptions describes the services' certificates.
type PKIOptions struct {
	Algorithm      string        // ECDSAP256 (default) or RSA2048
	Validity       time.Duration // default ten years
	Now            time.Time     // default time.Now(); certificates are valid from an hour before
	CommonName     string        // subject of the certificate authority; default "Keylime Certificate Authority"
	VerifierNames  []string      // DNS names of the verifier
	VerifierIPs    []net.IP      // addresses of the verifier; loopback is always added
	RegistrarNames []string
	RegistrarIPs   []net.IP
}

// File names in a PKI's folder. Keys are PEM (PKCS #8), mode 0600.
const (
	fileCACert        = "cacert.crt"
	fileCAKey         = "ca-private.pem"
	fileVerifierCert  = "verifier-cert.crt"
	fileVerifierKey   = "verifier-private.pem"
	fileRegistrarCert = "registrar-cert.crt"
	fileRegistrarKey  = "registrar-private.pem"
	fileTenantCert    = "tenant-cert.crt"
	fileTenantKey     = "tenant-private.pem"
	filePollerCert    = "verifier-client-cert.crt"
	filePollerKey     = "verifier-client-private.pem"
)

// PKI is a folder with the one certificate authority that the services trust, and the certificates of the services and the tenant.
// Making it in advance lets all services start at the same time; with Keylime's `tls_dir = generate` the others wait for the verifier.
type PKI struct {
	Dir    string
	CACert *x509.Certificate
	roots  *x509.CertPool
	tenant tls.Certificate
}

// CreatePKI makes the folder and everything in it. It fails if the folder holds a certificate authority already: use [OpenPKI] for that.
func CreatePKI(dir string, opts PKIOptions) (*PKI, error) {
	if opts.Now.IsZero() {
		opts.Now = time.Now()
	}
	if opts.Validity == 0 {
		opts.Validity = 10 * 365 * 24 * time.Hour
	}
	if opts.CommonName == "" {
		opts.CommonName = "Keylime Certificate Authority"
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("certificate folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make certificate folder: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, fileCACert)); err == nil {
		return nil, fmt.Errorf("%s holds a certificate authority already: %w", dir, fs.ErrExist)
	}
	ca, err := newAuthority(opts)
	if err != nil {
		return nil, err
	}
	loopback := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	leaves := []struct {
		cn        string
		names     []string
		ips       []net.IP
		usage     []x509.ExtKeyUsage
		cert, key string
	}{
		{"verifier", opts.VerifierNames, append(loopback, opts.VerifierIPs...), serverAuth, fileVerifierCert, fileVerifierKey},
		{"registrar", opts.RegistrarNames, append(loopback, opts.RegistrarIPs...), serverAuth, fileRegistrarCert, fileRegistrarKey},
		{"tenant", nil, nil, clientAuth, fileTenantCert, fileTenantKey},
		{"verifier client", nil, nil, clientAuth, filePollerCert, filePollerKey},
	}
	for _, l := range leaves {
		der, key, err := ca.issue(opts, l.cn, append([]string{"localhost"}, l.names...), l.ips, l.usage)
		if err != nil {
			return nil, fmt.Errorf("certificate of the %s: %w", l.cn, err)
		}
		if err := writePair(dir, l.cert, l.key, der, key); err != nil {
			return nil, err
		}
	}
	// The authority's own certificate comes last: it is what tells a finished folder.
	if err := writePair(dir, fileCACert, fileCAKey, ca.cert.Raw, ca.key); err != nil {
		return nil, err
	}
	return OpenPKI(dir)
}

// OpenPKI reads a folder that [CreatePKI] made.
func OpenPKI(dir string) (*PKI, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("certificate folder: %w", err)
	}
	p := &PKI{Dir: dir, roots: x509.NewCertPool()}
	data, err := os.ReadFile(filepath.Join(dir, fileCACert))
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("certificate authority %s: not a PEM certificate", filepath.Join(dir, fileCACert))
	}
	if p.CACert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("certificate authority %s: %w", filepath.Join(dir, fileCACert), err)
	}
	p.roots.AddCert(p.CACert)
	if p.tenant, err = tls.LoadX509KeyPair(p.path(fileTenantCert), p.path(fileTenantKey)); err != nil {
		return nil, fmt.Errorf("tenant's certificate: %w", err)
	}
	return p, nil
}

func (p *PKI) path(name string) string { return filepath.Join(p.Dir, name) }

// CACertFile is the PEM file of the certificate authority. An agent needs it, and nothing else of this folder, as `trusted_client_ca`.
func (p *PKI) CACertFile() string { return p.path(fileCACert) }

// ClientTLS is a TLS client configuration with the tenant's certificate, which is an administrator's for registrar and verifier, and
// which agents accept too. It verifies the server against the certificate authority and the server's name.
func (p *PKI) ClientTLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: p.roots, Certificates: []tls.Certificate{p.tenant}}
}

var (
	serverAuth = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	clientAuth = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
)

// authority is the certificate authority while certificates are being made; afterwards its key is only on disk.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newAuthority(opts PKIOptions) (*authority, error) {
	key, err := newKey(opts.Algorithm)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	// Python 3.13 verifies strictly by RFC 5280: critical basicConstraints and keyUsage and a subject key identifier (Go adds it) are needed.
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Keylime"}, CommonName: opts.CommonName},
		NotBefore:             opts.Now.Add(-time.Hour),
		NotAfter:              opts.Now.Add(opts.Validity),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	return &authority{cert: cert, key: key}, nil
}

func (a *authority) issue(opts PKIOptions, cn string, names []string, ips []net.IP, usage []x509.ExtKeyUsage) ([]byte, crypto.Signer, error) {
	key, err := newKey(opts.Algorithm)
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	t := leafTemplate(serial, cn, names, ips, opts.Now, opts.Validity, key)
	t.Subject.Organization = []string{"Keylime"}
	t.ExtKeyUsage = usage
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	return der, key, err
}

func leafTemplate(serial *big.Int, cn string, names []string, ips []net.IP, now time.Time, validity time.Duration, key crypto.Signer) *x509.Certificate {
	usage := x509.KeyUsageDigitalSignature
	if _, ok := key.(*rsa.PrivateKey); ok {
		usage |= x509.KeyUsageKeyEncipherment
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: cn},
		DNSNames:              names,
		IPAddresses:           ips,
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(validity),
		KeyUsage:              usage,
		BasicConstraintsValid: true,
	}
}

// AgentServerCertificate makes a self-signed TLS server certificate for one agent, as PEM: give it to the agent as `server_cert` and
// `server_key`. Keylime trusts it because the agent registers it. hosts are DNS names or addresses; the first is the subject, so far as a
// common name can hold it (64 characters, RFC 5280 appendix A). The Rust agent cannot make such a certificate itself when its contact address is a name.
func AgentServerCertificate(algorithm string, hosts ...string) (certPEM, keyPEM []byte, err error) {
	if len(hosts) == 0 {
		return nil, nil, errors.New("agent's certificate: no host name given")
	}
	key, err := newKey(algorithm)
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	var names []string
	var ips []net.IP
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			ips = append(ips, ip)
		} else {
			names = append(names, h)
		}
	}
	cn := hosts[0]
	if len(cn) > 64 {
		cn = cn[:64]
	}
	t := leafTemplate(serial, cn, names, ips, time.Now(), 10*365*24*time.Hour, key)
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("agent's certificate for %s: %w", hosts[0], err)
	}
	return encodePair(der, key)
}

func newKey(algorithm string) (crypto.Signer, error) {
	switch algorithm {
	case "", ECDSAP256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return nil, fmt.Errorf("key algorithm %q is not known: use %s or %s", algorithm, ECDSAP256, RSA2048)
}

func newSerial() (*big.Int, error) {
	b := make([]byte, sha256.Size/2)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	b[0] &= 0x7f // positive, at most 20 octets (RFC 5280, section 4.1.2.2)
	return new(big.Int).SetBytes(b), nil
}

func encodePair(der []byte, key crypto.Signer) (certPEM, keyPEM []byte, err error) {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode private key: %w", err)
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return certPEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

func writePair(dir, certName, keyName string, der []byte, key crypto.Signer) error {
	certPEM, keyPEM, err := encodePair(der, key)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, keyName), keyPEM, 0o600); err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, certName), certPEM, 0o644)
}
