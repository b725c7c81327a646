package tpmsim

import (
	"crypto"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Algorithm names the kind of an endorsement key.
type Algorithm string

// The two EKs of the low range, which every TPM 2.0 has (TCG EK Credential Profile for TPM 2.0, annex B.3).
const (
	EKRSA2048 Algorithm = "rsa2048"  // template L-1
	EKECCP256 Algorithm = "ecc-p256" // template L-2
)

// Algorithms lists all that [TPM.Manufacture] accepts.
func Algorithms() []Algorithm { return []Algorithm{EKRSA2048, EKECCP256} }

// ekProfile says where the TCG wants the parts of an EK.
type ekProfile struct {
	algorithm Algorithm
	template  tpm2.TPMTPublic
	// persistent: the registry of reserved handles sets 0x81010000-0x8101FFFF apart for the endorsement hierarchy;
	// 0x81010001 is where tools look for the RSA EK, and its neighbour is the customary place for the ECC one.
	persistent tpm2.TPMHandle
	// certificate: the NV index of the EK certificate (EK Credential Profile, section 2.2.1).
	certificate tpm2.TPMHandle
}

func profileOf(a Algorithm) (*ekProfile, error) {
	switch a {
	case EKRSA2048:
		return &ekProfile{a, tpm2.RSAEKTemplate, 0x81010001, 0x01c00002}, nil
	case EKECCP256:
		return &ekProfile{a, tpm2.ECCEKTemplate, 0x81010002, 0x01c0000a}, nil
	}
	return nil, fmt.Errorf("tpmsim: unknown EK algorithm %q; use %q or %q", a, EKRSA2048, EKECCP256)
}

// publicKey turns a public area into a crypto.PublicKey (*rsa.PublicKey or *ecdsa.PublicKey).
func publicKey(pub *tpm2.TPMTPublic) (crypto.PublicKey, error) {
	key, err := tpm2.Pub(*pub)
	if err != nil {
		return nil, fmt.Errorf("tpmsim: reading the public key out of the TPM's public area: %w", err)
	}
	return key, nil
}
