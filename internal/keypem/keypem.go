// Package keypem reads private keys as keylab keeps them: PKCS #8 (RFC 5958) in PEM (RFC 7468).
package keypem

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// ErrNoPEM is the error for data in which there is no PEM block.
var ErrNoPEM = errors.New("no PEM private key")

// Parse returns the private key of the first PEM block. No error repeats anything of the data.
func Parse(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, ErrNoPEM
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", key)
	}
	return signer, nil
}
