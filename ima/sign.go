package ima

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	signatureType    = 3 // EVM_IMA_XATTR_DIGSIG (security/integrity/integrity.h)
	signatureVersion = 2 // of struct signature_v2_hdr, there
	signatureHeader  = 9 // type, version, algorithm, 4 bytes of key id, 2 of length
)

// hashNumbers are the algorithms as a signature has them: enum hash_algo of include/uapi/linux/hash_info.h.
var hashNumbers = map[crypto.Hash]byte{crypto.SHA1: 2, crypto.SHA256: 4, crypto.SHA384: 5, crypto.SHA512: 6}

// Sign gives the extended attribute security.ima of a file of that digest, as `evmctl ima_sign` makes it with a key on an elliptic curve: a
// signature_v2_hdr, in network byte order, and the signature of the digest in DER (RFC 3279, section 2.2.3).
func Sign(key *ecdsa.PrivateKey, d Digest) ([]byte, error) {
	if err := d.check(false); err != nil {
		return nil, err
	}
	id, err := keyID(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	signature, err := ecdsa.SignASN1(rand.Reader, key, d.Sum)
	if err != nil {
		return nil, fmt.Errorf("sign the digest of a file: %w", err)
	}
	out := append([]byte{signatureType, signatureVersion, hashNumbers[d.Hash]}, id...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(signature)))
	return append(out, signature...), nil
}

// SignedBy tells whether the entry has a signature of its digest by the key.
func (e Entry) SignedBy(key *ecdsa.PublicKey) bool {
	s := e.Signature
	if len(s) < signatureHeader || s[0] != signatureType || s[1] != signatureVersion || s[2] != hashNumbers[e.Digest.Hash] || s[2] == 0 {
		return false
	}
	id, err := keyID(key)
	if err != nil || string(s[3:7]) != string(id) || int(binary.BigEndian.Uint16(s[7:])) != len(s)-signatureHeader {
		return false
	}
	return ecdsa.VerifyASN1(key, e.Digest.Sum, s[signatureHeader:])
}

// keyID is by which a keyring finds the key: the end of the SHA-1 hash of its uncompressed point (ima-evm-utils, calc_keyid_v2).
func keyID(key *ecdsa.PublicKey) ([]byte, error) {
	if key == nil || key.Curve == nil {
		return nil, errors.New("there is no key to sign with")
	}
	point, err := key.Bytes()
	if err != nil {
		return nil, fmt.Errorf("the key of file signatures: %w", err)
	}
	sum := sha1.Sum(point)
	return sum[len(sum)-4:], nil
}
