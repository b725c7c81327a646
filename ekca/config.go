package ekca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// KeyAlgorithm names the kind of the CA's own keys. The endorsement keys that it certifies may be of another kind.
type KeyAlgorithm string

// The kinds of CA keys. ECC P-384 signs with SHA-384, all others with SHA-256; RSA signs with PKCS #1 v1.5, the only RSA padding that
// Keylime's check of EK certificates knows.
const (
	RSA2048 KeyAlgorithm = "rsa2048"
	RSA3072 KeyAlgorithm = "rsa3072"
	ECCP256 KeyAlgorithm = "ecc-p256"
	ECCP384 KeyAlgorithm = "ecc-p384"
)

// KeyAlgorithms lists every KeyAlgorithm.
func KeyAlgorithms() []KeyAlgorithm { return []KeyAlgorithm{RSA2048, RSA3072, ECCP256, ECCP384} }

func (a KeyAlgorithm) generate() (crypto.Signer, error) {
	switch a {
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case ECCP256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECCP384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	}
	return nil, fmt.Errorf("%w: key algorithm %q; known are %v", ErrConfig, string(a), KeyAlgorithms())
}

// MaxIntermediates is the largest number of intermediate levels.
const MaxIntermediates = 4

const (
	defaultValidity = 10 * 365 * 24 * time.Hour
	maxNameLength   = 64 // X.520 upper bounds ub-common-name and ub-organization-name
)

// Config describes a CA. The zero value of each field but Intermediates stands for its default.
type Config struct {
	Algorithm     KeyAlgorithm // keys of all levels; default RSA2048
	Intermediates int          // levels between root and EK certificates, 0 to MaxIntermediates; with 0 the root issues

	Organization     string // subject's O; default "keylab"
	Country          string // subject's C, two capital letters; default none
	RootName         string // subject's CN; default "keylab Root EK CA"
	IntermediateName string // default "keylab Intermediate EK CA"; with several levels " 1", " 2", ... is appended, 1 being below the root

	Validity   time.Duration // of the CA certificates; default 10 years
	EKValidity time.Duration // of EK certificates whose request names no end; default 10 years, cut at the end of the issuing CA
	CRLURL     string        // HTTP distribution point of the CRL, named in EK certificates; default none
	AIAURL     string        // HTTP address of the issuing CA's certificate (caIssuers), named in EK certificates; default none

	// Now gives the time of issue and of revocation; default time.Now. It is not stored with the CA.
	Now func() time.Time
}

// DefaultConfig has one level of intermediates, as most TPM vendors do, and defaults elsewhere.
func DefaultConfig() Config { return Config{Intermediates: 1}.withDefaults() }

func (c Config) withDefaults() Config {
	if c.Algorithm == "" {
		c.Algorithm = RSA2048
	}
	if c.Organization == "" {
		c.Organization = "keylab"
	}
	if c.RootName == "" {
		c.RootName = "keylab Root EK CA"
	}
	if c.IntermediateName == "" {
		c.IntermediateName = "keylab Intermediate EK CA"
	}
	if c.Validity == 0 {
		c.Validity = defaultValidity
	}
	if c.EKValidity == 0 {
		c.EKValidity = defaultValidity
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Validate reports everything that is wrong with c, in one error that wraps ErrConfig.
func (c Config) Validate() error {
	c = c.withDefaults()
	var wrong []string
	add := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }

	known := false
	for _, a := range KeyAlgorithms() {
		known = known || a == c.Algorithm
	}
	if !known {
		add("algorithm %q is none of %v", string(c.Algorithm), KeyAlgorithms())
	}
	if c.Intermediates < 0 || c.Intermediates > MaxIntermediates {
		add("%d intermediate levels; 0 to %d are possible", c.Intermediates, MaxIntermediates)
	}
	if c.Country != "" && (len(c.Country) != 2 || strings.ToUpper(c.Country) != c.Country || !isASCIILetters(c.Country)) {
		add("country %q is not two capital letters (ISO 3166)", c.Country)
	}
	names := []struct{ what, name string }{{"organization", c.Organization}, {"root name", c.RootName}}
	for level := 1; level <= c.Intermediates && level <= MaxIntermediates; level++ {
		names = append(names, struct{ what, name string }{"intermediate name", c.intermediateName(level)})
	}
	seen := map[string]bool{}
	for _, n := range names {
		if msg := badName(n.name); msg != "" {
			add("%s %q %s", n.what, n.name, msg)
		}
		// Equal names of two levels would make each look like the issuer of itself.
		if n.what != "organization" {
			if seen[n.name] {
				add("%s %q is already the name of another level", n.what, n.name)
			}
			seen[n.name] = true
		}
	}
	if c.Validity < time.Second || c.EKValidity < time.Second {
		add("validity %v and EK validity %v must be a second or more", c.Validity, c.EKValidity)
	}
	for _, u := range []struct{ what, raw string }{{"CRL URL", c.CRLURL}, {"AIA URL", c.AIAURL}} {
		if u.raw == "" {
			continue
		}
		if p, err := url.Parse(u.raw); err != nil || (p.Scheme != "http" && p.Scheme != "https") || p.Host == "" {
			add("%s %q is not an absolute http(s) address", u.what, u.raw)
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%w: %s", ErrConfig, strings.Join(wrong, "; "))
	}
	return nil
}

func isASCIILetters(s string) bool {
	for _, r := range s {
		if r > unicode.MaxASCII || !unicode.IsLetter(r) {
			return false
		}
	}
	return true
}

// badName tells what keeps name out of a certificate's subject; empty when nothing does.
func badName(name string) string {
	switch {
	case !utf8.ValidString(name):
		return "is not UTF-8"
	case utf8.RuneCountInString(name) > maxNameLength:
		return "is longer than " + strconv.Itoa(maxNameLength) + " characters"
	case strings.TrimSpace(name) != name || name == "":
		return "is empty or has blanks at an end"
	case strings.ContainsFunc(name, unicode.IsControl):
		return "has control characters"
	}
	return ""
}

func (c Config) intermediateName(level int) string {
	if c.Intermediates > 1 {
		return c.IntermediateName + " " + strconv.Itoa(level)
	}
	return c.IntermediateName
}

// subject names the CA certificate of a level; level 0 is the root.
func (c Config) subject(level int) pkix.Name {
	n := pkix.Name{Organization: []string{c.Organization}, CommonName: c.RootName}
	if level > 0 {
		n.CommonName = c.intermediateName(level)
	}
	if c.Country != "" {
		n.Country = []string{c.Country}
	}
	return n
}

// differences lists the fields of the hierarchy in which c and other disagree: those that no later call can change.
func (c Config) differences(other Config) []string {
	var out []string
	for _, f := range []struct {
		name string
		a, b any
	}{
		{"algorithm", c.Algorithm, other.Algorithm},
		{"intermediates", c.Intermediates, other.Intermediates},
		{"organization", c.Organization, other.Organization},
		{"country", c.Country, other.Country},
		{"root name", c.RootName, other.RootName},
		{"intermediate name", c.IntermediateName, other.IntermediateName},
	} {
		if f.a != f.b {
			out = append(out, fmt.Sprintf("%s is %v, not %v", f.name, f.a, f.b))
		}
	}
	return out
}
