package ekca

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"keylab.dev/keylab/internal/keypem"
)

// CA is an open EK CA. Its methods may be called by several goroutines at once.
type CA struct {
	dir    string // absolute
	cfg    Config
	chain  []*x509.Certificate // issuing CA first, root last
	signer crypto.Signer       // key of chain[0]
	mu     sync.Mutex          // held with the file lock, see lock
}

const storedVersion = 1

// storedConfig is Config as ca.json holds it.
type storedConfig struct {
	Version          int          `json:"version"`
	Algorithm        KeyAlgorithm `json:"algorithm"`
	Intermediates    int          `json:"intermediates"`
	Organization     string       `json:"organization"`
	Country          string       `json:"country,omitempty"`
	RootName         string       `json:"rootName"`
	IntermediateName string       `json:"intermediateName"`
	Validity         string       `json:"validity"` // as time.Duration prints
	EKValidity       string       `json:"ekValidity"`
	CRLURL           string       `json:"crlURL,omitempty"`
	AIAURL           string       `json:"aiaURL,omitempty"`
}

func readConfig(dir string) (Config, error) {
	path := filepath.Join(dir, configFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("%w: %w", ErrNotExist, err)
	} else if err != nil {
		return Config{}, err
	}
	var s storedConfig
	if err := json.Unmarshal(data, &s); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	if s.Version != storedVersion {
		return Config{}, fmt.Errorf("%s: version %d, but this program knows only %d", path, s.Version, storedVersion)
	}
	cfg := Config{
		Algorithm: s.Algorithm, Intermediates: s.Intermediates, Organization: s.Organization, Country: s.Country,
		RootName: s.RootName, IntermediateName: s.IntermediateName, CRLURL: s.CRLURL, AIAURL: s.AIAURL,
	}
	if cfg.Validity, err = time.ParseDuration(s.Validity); err != nil {
		return Config{}, fmt.Errorf("%s: validity: %w", path, err)
	}
	if cfg.EKValidity, err = time.ParseDuration(s.EKValidity); err != nil {
		return Config{}, fmt.Errorf("%s: EK validity: %w", path, err)
	}
	if err := cfg.Validate(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return cfg.withDefaults(), nil
}

// Open opens the CA that dir holds, and checks that its certificates form one chain and that the issuing key fits. The error wraps
// ErrNotExist when there is none.
func Open(dir string) (*CA, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open EK CA: %w", err)
	}
	ca := &CA{dir: dir}
	if ca.cfg, err = readConfig(dir); err != nil {
		return nil, fmt.Errorf("open EK CA in %s: %w", dir, err)
	}
	for level := ca.cfg.Intermediates; level >= 0; level-- {
		cert, err := readCertificate(filepath.Join(dir, levelName(level)+".pem"))
		if err != nil {
			return nil, fmt.Errorf("open EK CA in %s: %w", dir, err)
		}
		ca.chain = append(ca.chain, cert)
	}
	for i, cert := range ca.chain {
		above := ca.chain[min(i+1, len(ca.chain)-1)]
		if err := cert.CheckSignatureFrom(above); err != nil {
			return nil, fmt.Errorf("open EK CA in %s: %q is not signed by %q: %w", dir, cert.Subject, above.Subject, err)
		}
	}
	if ca.signer, err = readKey(filepath.Join(dir, keysDir, levelName(ca.cfg.Intermediates)+".key")); err != nil {
		return nil, fmt.Errorf("open EK CA in %s: %w", dir, err)
	}
	public, ok := ca.signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(ca.Issuer().PublicKey) {
		return nil, fmt.Errorf("open EK CA in %s: the key of the issuing CA does not fit its certificate %q", dir, ca.Issuer().Subject)
	}
	return ca, nil
}

func readKey(path string) (crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	signer, err := keypem.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return signer, nil
}

// OpenOrCreate opens the CA in dir, or creates it when there is none; the second result tells whether it was created. An existing CA
// must have the hierarchy of cfg, else the error wraps ErrConfigDiffers and lists what differs. What cfg says of EK certificates
// (EKValidity, CRLURL, AIAURL) and of time holds for the CA returned, and is not stored.
func OpenOrCreate(dir string, cfg Config) (*CA, bool, error) {
	if err := cfg.Validate(); err != nil {
		return nil, false, fmt.Errorf("EK CA in %s: %w", dir, err)
	}
	cfg = cfg.withDefaults()
	ca, err := Open(dir)
	if errors.Is(err, ErrNotExist) {
		if ca, err = Create(dir, cfg); err == nil {
			return ca, true, nil
		}
		if !errors.Is(err, ErrExists) {
			return nil, false, err
		}
		// Another process was quicker, or the folder holds other things: then this says so.
		if ca, err = Open(dir); errors.Is(err, ErrNotExist) {
			return nil, false, fmt.Errorf("%w; nor can one be made: %w", err, ErrExists)
		}
	}
	if err != nil {
		return nil, false, err
	}
	if diff := ca.cfg.differences(cfg); len(diff) > 0 {
		return nil, false, fmt.Errorf("EK CA in %s: %w: %v; use another folder, or remove this one", dir, ErrConfigDiffers, diff)
	}
	ca.cfg.EKValidity, ca.cfg.CRLURL, ca.cfg.AIAURL, ca.cfg.Now = cfg.EKValidity, cfg.CRLURL, cfg.AIAURL, cfg.Now
	return ca, false, nil
}

// Dir is the CA's folder, as an absolute path.
func (ca *CA) Dir() string { return ca.dir }

// Config is what the CA was made with, defaults filled in.
func (ca *CA) Config() Config { return ca.cfg }

// Chain gives the CA certificates: the issuing one first, the root last.
func (ca *CA) Chain() []*x509.Certificate { return slices.Clone(ca.chain) }

// Issuer is the certificate of the CA that signs EK certificates; the root when there are no intermediates.
func (ca *CA) Issuer() *x509.Certificate { return ca.chain[0] }

// Root is the self-signed certificate.
func (ca *CA) Root() *x509.Certificate { return ca.chain[len(ca.chain)-1] }

// levelOf names the place in the hierarchy of chain[i], as files are named.
func (ca *CA) levelOf(i int) string { return levelName(len(ca.chain) - 1 - i) }

// Fingerprint is the SHA-256 of the certificate's DER, in lower-case hex.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// FingerprintSPKI is the SHA-256 of the certificate's SubjectPublicKeyInfo in DER, in lower-case hex: the same for every certificate of
// one EK.
func FingerprintSPKI(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
