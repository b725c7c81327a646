package ekca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Object identifiers of the TCG EK Credential Profile for TPM Family 2.0 (arc 2.23.133) and of RFC 5280.
var (
	oidTPMManufacturer  = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidTPMModel         = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidTPMVersion       = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
	oidTPMSpecification = asn1.ObjectIdentifier{2, 23, 133, 2, 16}
	oidEKCertificate    = asn1.ObjectIdentifier{2, 23, 133, 8, 1} // tcg-kp-EKCertificate

	oidSubjectAltName             = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidSubjectDirectoryAttributes = asn1.ObjectIdentifier{2, 5, 29, 9}
	oidKeyUsage                   = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidBasicConstraints           = asn1.ObjectIdentifier{2, 5, 29, 19}
)

// DefaultRevision is that of the TPM 2.0 Library specification which swtpm with libtpms 0.9 implements: 1.64, in hundredths.
const DefaultRevision = 164

// Model says what a TPM is, in the form that the EK Credential Profile, section 3.2, wants in the subjectAltName.
type Model struct {
	Manufacturer string // "id:" and 8 hex digits: TPM_PT_MANUFACTURER, as in the TCG Vendor ID Registry
	Model        string // vendor's name of the part, 1 to 64 characters
	Version      string // "id:" and 4 to 16 hex digits: TPM_PT_FIRMWARE_VERSION_1 (8 digits on most parts), and _2
}

// SimulatedModel is what libtpms says of itself (manufacturer "IBM"). It stands for the zero Model in a Request.
func SimulatedModel() Model {
	return Model{Manufacturer: "id:49424D00", Model: "keylab simulated TPM", Version: "id:20191023"}
}

var (
	manufacturerPattern = regexp.MustCompile(`^id:[0-9A-Fa-f]{8}$`)
	versionPattern      = regexp.MustCompile(`^id:([0-9A-Fa-f]{2}){2,8}$`)
)

// Validate reports everything that is wrong with m, in one error that wraps ErrModel.
func (m Model) Validate() error {
	var wrong []string
	if !manufacturerPattern.MatchString(m.Manufacturer) {
		wrong = append(wrong, fmt.Sprintf(`manufacturer %q is not "id:" and 8 hex digits`, m.Manufacturer))
	}
	if n := utf8.RuneCountInString(m.Model); n < 1 || n > 64 || !utf8.ValidString(m.Model) || strings.ContainsFunc(m.Model, unicode.IsControl) {
		wrong = append(wrong, fmt.Sprintf("model %q is not 1 to 64 printable characters", m.Model))
	}
	if !versionPattern.MatchString(m.Version) {
		wrong = append(wrong, fmt.Sprintf(`version %q is not "id:" and 4 to 16 hex digits (an even number)`, m.Version))
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%w: %s", ErrModel, strings.Join(wrong, "; "))
	}
	return nil
}

// encoding/asn1 makes a SET of a slice type whose name ends in SET; the profile demands UTF8String where Go would choose
// PrintableString.
type (
	tpmAttribute struct {
		Type  asn1.ObjectIdentifier
		Value string `asn1:"utf8"`
	}
	tpmNameSET       []tpmAttribute
	tpmSpecification struct {
		Family   string `asn1:"utf8"`
		Level    int
		Revision int
	}
	tpmSpecificationSET    []tpmSpecification
	specificationAttribute struct {
		Type   asn1.ObjectIdentifier
		Values tpmSpecificationSET
	}
)

const directoryNameTag = 4 // GeneralName ::= CHOICE { ..., directoryName [4] Name, ... } (RFC 5280, section 4.2.1.6)

// subjectAltName encodes m as the only directoryName, critical because the subject is empty (RFC 5280, section 4.2.1.6).
func (m Model) subjectAltName() (pkix.Extension, error) {
	name, err := asn1.Marshal([]tpmNameSET{
		{{oidTPMManufacturer, m.Manufacturer}},
		{{oidTPMModel, m.Model}},
		{{oidTPMVersion, m.Version}},
	})
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encode TPM model: %w", err)
	}
	value, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: directoryNameTag, IsCompound: true, Bytes: name}})
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encode subjectAltName: %w", err)
	}
	return pkix.Extension{Id: oidSubjectAltName, Critical: true, Value: value}, nil
}

// specificationExtension states that the TPM follows Library specification family 2.0, level 0, of the given revision.
func specificationExtension(revision int) (pkix.Extension, error) {
	value, err := asn1.Marshal([]specificationAttribute{{
		Type:   oidTPMSpecification,
		Values: tpmSpecificationSET{{Family: "2.0", Level: 0, Revision: revision}},
	}})
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encode subjectDirectoryAttributes: %w", err)
	}
	return pkix.Extension{Id: oidSubjectDirectoryAttributes, Value: value}, nil
}

// endorsementKey brings pub to one of crypto/x509's own types and gives the key usage that the profile, section 3.2, demands: EKs
// decrypt, they do not sign.
func endorsementKey(pub crypto.PublicKey) (crypto.PublicKey, x509.KeyUsage, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %T: %w", ErrUnsupportedKey, pub, err)
	}
	if pub, err = x509.ParsePKIXPublicKey(der); err != nil { // also turns *ecdh.PublicKey into *ecdsa.PublicKey
		return nil, 0, fmt.Errorf("%w: %w", ErrUnsupportedKey, err)
	}
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return nil, 0, fmt.Errorf("%w: RSA of %d bits; the EK Credential Profile has 2048, 3072 and 4096", ErrUnsupportedKey, k.N.BitLen())
		}
		return k, x509.KeyUsageKeyEncipherment, nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P224() {
			return nil, 0, fmt.Errorf("%w: curve P-224; the EK Credential Profile has P-256, P-384 and P-521", ErrUnsupportedKey)
		}
		return k, x509.KeyUsageKeyAgreement, nil
	}
	return nil, 0, fmt.Errorf("%w: %T; an EK is RSA or ECC", ErrUnsupportedKey, pub)
}

// ParseModel reads the TPM's manufacturer, model and version from the directoryName of an EK certificate's subjectAltName. The error
// wraps ErrNotEK.
func ParseModel(cert *x509.Certificate) (Model, error) {
	value, ok := extension(cert, oidSubjectAltName)
	if !ok {
		return Model{}, fmt.Errorf("%w: no subjectAltName", ErrNotEK)
	}
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(value.Value, &names); err != nil || len(rest) > 0 {
		return Model{}, fmt.Errorf("%w: malformed subjectAltName: %w", ErrNotEK, orTrailing(err))
	}
	var m Model
	for _, n := range names {
		if n.Class != asn1.ClassContextSpecific || n.Tag != directoryNameTag {
			continue
		}
		var rdns pkix.RDNSequence
		if rest, err := asn1.Unmarshal(n.Bytes, &rdns); err != nil || len(rest) > 0 {
			return Model{}, fmt.Errorf("%w: malformed directoryName in subjectAltName: %w", ErrNotEK, orTrailing(err))
		}
		for _, rdn := range rdns {
			for _, a := range rdn { // vendors put the three in one RDN or in three
				s, _ := a.Value.(string)
				switch {
				case a.Type.Equal(oidTPMManufacturer):
					m.Manufacturer = s
				case a.Type.Equal(oidTPMModel):
					m.Model = s
				case a.Type.Equal(oidTPMVersion):
					m.Version = s
				}
			}
		}
	}
	if m.Manufacturer == "" || m.Model == "" || m.Version == "" {
		return m, fmt.Errorf("%w: subjectAltName lacks the TPM's manufacturer, model or version", ErrNotEK)
	}
	return m, nil
}

func orTrailing(err error) error {
	if err == nil {
		return errors.New("trailing data")
	}
	return err
}

func extension(cert *x509.Certificate, id asn1.ObjectIdentifier) (pkix.Extension, bool) {
	for _, e := range cert.Extensions {
		if e.Id.Equal(id) {
			return e, true
		}
	}
	return pkix.Extension{}, false
}

// CheckProfile reports everything in which cert departs from the EK Credential Profile, section 3.2, in one error that wraps ErrNotEK.
// Who signed it, and when it is valid, is not looked at.
func CheckProfile(cert *x509.Certificate) error {
	var wrong []string
	add := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	critical := func(id asn1.ObjectIdentifier) bool { e, ok := extension(cert, id); return ok && e.Critical }

	if cert.Version != 3 {
		add("X.509 version %d, not 3", cert.Version)
	}
	if cert.SerialNumber == nil || cert.SerialNumber.Sign() <= 0 {
		add("serial number is not positive")
	}
	if !cert.BasicConstraintsValid || cert.IsCA || !critical(oidBasicConstraints) {
		add("basicConstraints must be critical and say CA:FALSE")
	}
	var usage x509.KeyUsage
	switch cert.PublicKey.(type) {
	case *rsa.PublicKey:
		usage = x509.KeyUsageKeyEncipherment
	case *ecdsa.PublicKey:
		usage = x509.KeyUsageKeyAgreement
	default:
		add("public key is %v, not RSA or ECC", cert.PublicKeyAlgorithm)
	}
	if usage != 0 && (cert.KeyUsage&usage == 0 || !critical(oidKeyUsage)) {
		add("keyUsage must be critical and hold keyEncipherment (RSA) or keyAgreement (ECC)")
	}
	isEK := false
	for _, id := range cert.UnknownExtKeyUsage {
		isEK = isEK || id.Equal(oidEKCertificate)
	}
	if !isEK {
		add("extendedKeyUsage lacks tcg-kp-EKCertificate (%v)", oidEKCertificate)
	}
	if len(cert.AuthorityKeyId) == 0 {
		add("no authorityKeyIdentifier")
	}
	if _, err := ParseModel(cert); err != nil {
		add("%s", strings.TrimPrefix(err.Error(), ErrNotEK.Error()+": "))
	} else if bytes.Equal(cert.RawSubject, []byte{0x30, 0}) && !critical(oidSubjectAltName) {
		add("subjectAltName must be critical, for the subject is empty")
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%w: %s", ErrNotEK, strings.Join(wrong, "; "))
	}
	return nil
}
