package ekca

import (
	"errors"
	"fmt"
	"io/fs"
)

// Errors that callers tell apart with errors.Is. Each is wrapped with what was being done and to which file or certificate.
var (
	// ErrExists: the folder already holds a CA (or other files).
	ErrExists = fmt.Errorf("folder already in use: %w", fs.ErrExist)
	// ErrNotExist: the folder holds no CA. Wraps fs.ErrNotExist.
	ErrNotExist = fmt.Errorf("no EK CA here: %w", fs.ErrNotExist)
	// ErrConfig: a configuration value is out of range.
	ErrConfig = errors.New("invalid EK CA configuration")
	// ErrConfigDiffers: the folder holds a CA made with another hierarchy than the one asked for.
	ErrConfigDiffers = errors.New("existing EK CA differs from the configuration")

	// ErrModel: a TPM model that no EK certificate may carry.
	ErrModel = errors.New("invalid TPM model")
	// ErrUnsupportedKey: a public key that the EK Credential Profile does not know.
	ErrUnsupportedKey = errors.New("unsupported endorsement key")
	// ErrSerialTaken: this CA has issued a certificate with that serial number.
	ErrSerialTaken = errors.New("serial number already issued")
	// ErrNotIssued: this CA has no record of that certificate or serial number.
	ErrNotIssued = errors.New("not in the record of issued certificates")

	// ErrPathLength: no level of this CA may certify another CA.
	ErrPathLength = errors.New("no level of this EK CA may certify another CA")

	// ErrNotEK: the certificate is not an EK certificate by the TCG EK Credential Profile.
	ErrNotEK = errors.New("not an EK certificate")
	// ErrWrongCA: no certificate of this CA signed it.
	ErrWrongCA = errors.New("not signed by this EK CA")
	// ErrExpired: the certificate or one of the CA's is past its notAfter.
	ErrExpired = errors.New("expired")
	// ErrNotYetValid: the certificate or one of the CA's is before its notBefore.
	ErrNotYetValid = errors.New("not valid yet")
	// ErrRevoked: the CA revoked the certificate.
	ErrRevoked = errors.New("revoked")
	// ErrNotInStore: no file of a tpm_cert_store vouches for the certificate.
	ErrNotInStore = errors.New("no CA certificate in the store signed it")
)
