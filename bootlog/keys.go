package bootlog

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/google/uuid"
)

// Signature is an entry of a signature list, EFI_SIGNATURE_DATA in UEFI 2.10 section 32.4.1: a certificate or a hash.
type Signature struct {
	// Owner is the agent that added the entry.
	Owner uuid.UUID
	// Certificate is an X.509 certificate in DER.
	Certificate []byte
	// SHA256 is the SHA-256 digest of an image, 32 bytes.
	SHA256 []byte
}

// check reports an entry that is neither a certificate nor a hash, or both.
func (s Signature) check() error {
	switch {
	case (s.Certificate == nil) == (s.SHA256 == nil):
		return errors.New("exactly one of Certificate and SHA256 must be set")
	case s.SHA256 != nil && len(s.SHA256) != sha256.Size:
		return fmt.Errorf("SHA256 has %d bytes, not %d", len(s.SHA256), sha256.Size)
	case s.Certificate != nil:
		var whole asn1.RawValue
		if rest, err := asn1.Unmarshal(s.Certificate, &whole); err != nil || len(rest) > 0 {
			return errors.New("a Certificate must be one DER value, not PEM")
		}
	}
	return nil
}

func (s Signature) data() []byte {
	if s.Certificate != nil {
		return s.Certificate
	}
	return s.SHA256
}

// firstCertificate is the first entry of a list that is a certificate, nil if there is none.
func firstCertificate(list []Signature) *Signature {
	for i := range list {
		if list[i].Certificate != nil {
			return &list[i]
		}
	}
	return nil
}

// madeKeys returns the Secure Boot variables of a fleet that brought none: what a machine has that its maker prepared for common systems.
func madeKeys(fleet string) (Keys, error) {
	const system = "Keylab UEFI"
	maker, common := seededUUID("owner", fleet), seededUUID("owner", system)
	var errs []error
	entry := func(owner uuid.UUID, name, seed string) Signature {
		der, err := certificate(name, seed)
		errs = append(errs, err)
		return Signature{Owner: owner, Certificate: der}
	}
	k := Keys{
		PK:  []Signature{entry(maker, "Platform Key", fleet)},
		KEK: []Signature{entry(maker, "Key Exchange Key", fleet)},
		// The first is the one that the shim is signed with.
		DB: []Signature{entry(common, "UEFI CA 2023", system), entry(maker, "Firmware Signing", fleet)},
	}
	for i := range 4 {
		k.DBX = append(k.DBX, Signature{Owner: common, SHA256: derive(crypto.SHA256, "dbx", system, fmt.Sprint(i))})
	}
	return k, errors.Join(errs...)
}

// shimCertificate is the certificate built into a shim, by which it verifies GRUB and the kernel.
func shimCertificate(shim Image) (Signature, error) {
	der, err := certificate("Linux CA", shim.Path)
	return Signature{Owner: guidShim, Certificate: der}, err
}

// seeded returns n bytes that depend on the labels alone. Labels are length-prefixed, so that "a","bc" and "ab","c" differ.
func seeded(n int, labels ...string) []byte {
	var seed []byte
	for _, l := range labels {
		seed = binary.BigEndian.AppendUint32(seed, uint32(len(l)))
		seed = append(seed, l...)
	}
	var out []byte
	for block := uint32(0); len(out) < n; block++ {
		sum := sha256.Sum256(binary.BigEndian.AppendUint32(seed, block))
		out = append(out, sum[:]...)
	}
	return out[:n]
}

// derive returns the digest of content that exists only by name.
func derive(h crypto.Hash, labels ...string) []byte {
	return digest(h, seeded(64, labels...))
}

func digest(h crypto.Hash, data []byte) []byte {
	w := h.New()
	w.Write(data)
	return w.Sum(nil)
}

// seededUUID returns a random-looking (version 4) UUID.
func seededUUID(labels ...string) uuid.UUID {
	var u uuid.UUID
	copy(u[:], seeded(len(u), labels...))
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// certificate returns an X.509 v3 certificate with an RSA-2048 key, as Secure Boot has them: DER, with a header of four bytes, which
// Keylime's parser of shim's lists looks for. Modulus and signature come from the seed: crypto/rsa makes no key from a seed, and nothing
// in measured boot verifies the signature.
func certificate(name, seed string) ([]byte, error) {
	type validity struct{ NotBefore, NotAfter time.Time }
	type publicKey struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	type body struct {
		Version    int `asn1:"explicit,tag:0"`
		Serial     *big.Int
		Signature  pkix.AlgorithmIdentifier
		Issuer     pkix.RDNSequence
		Validity   validity
		Subject    pkix.RDNSequence
		Key        publicKey
		Extensions []pkix.Extension `asn1:"explicit,tag:3"`
	}
	type whole struct {
		Body      body
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	const keyBytes = 2048 / 8

	modulus := seeded(keyBytes, "modulus", name, seed)
	modulus[0] |= 0x80 // 2048 bits in full
	modulus[keyBytes-1] |= 1
	serial := seeded(16, "serial", name, seed)
	serial[0] = serial[0]&0x7f | 0x40

	subject := pkix.Name{CommonName: name, Organization: []string{"Keylab"}}.ToRDNSequence()
	rsaKey := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}, Parameters: asn1.NullRawValue}
	sha256RSA := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11}, Parameters: asn1.NullRawValue}
	key, err := asn1.Marshal(struct {
		N *big.Int
		E int
	}{new(big.Int).SetBytes(modulus), 65537})
	if err != nil {
		return nil, fmt.Errorf("key of certificate %q: %w", name, err)
	}
	isCA, err := asn1.Marshal(struct {
		CA bool `asn1:"optional"`
	}{true})
	if err != nil {
		return nil, fmt.Errorf("extension of certificate %q: %w", name, err)
	}
	der, err := asn1.Marshal(whole{
		Body: body{
			Version:   2,
			Serial:    new(big.Int).SetBytes(serial),
			Signature: sha256RSA,
			Issuer:    subject,
			Validity: validity{
				NotBefore: time.Date(2023, 1, 1, 0, 0, 0, 0, time.UTC),
				NotAfter:  time.Date(2043, 1, 1, 0, 0, 0, 0, time.UTC),
			},
			Subject: subject,
			Key:     publicKey{Algorithm: rsaKey, Key: asn1.BitString{Bytes: key, BitLength: 8 * len(key)}},
			Extensions: []pkix.Extension{
				{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: isCA}, // basicConstraints
			},
		},
		Algorithm: sha256RSA,
		Signature: asn1.BitString{Bytes: seeded(keyBytes, "signature", name, seed), BitLength: 2048},
	})
	if err != nil {
		return nil, fmt.Errorf("certificate %q: %w", name, err)
	}
	return der, nil
}
