package tpmsim

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// ErrNotManufactured is wrapped by the error of [TPM.Identity] when the TPM has no persistent endorsement key.
var ErrNotManufactured = errors.New("TPM is not manufactured")

// ManufactureOptions say what a TPM gets at the factory.
type ManufactureOptions struct {
	Algorithm Algorithm
	// Certificate returns the EK certificate (DER) for the new EK; it is called at most once, and not for a TPM that has one
	// already.
	Certificate func(ek crypto.PublicKey, algorithm Algorithm) (der []byte, err error)
	// WithoutCertificate makes a TPM that leaves the factory without an EK certificate; Certificate is not called.
	WithoutCertificate bool
}

// Identity is what tells a TPM from all others.
type Identity struct {
	Algorithm   Algorithm
	Public      crypto.PublicKey // of the EK: *rsa.PublicKey or *ecdsa.PublicKey
	TPM2BPublic []byte           // TPM2B_PUBLIC of the EK, with its 2-byte size
	Certificate []byte           // EK certificate, DER, as it is in NV memory; nil: the TPM has none
	Existing    bool             // it was there before this call
}

// Manufacture makes the endorsement key by the TCG's low-range template, persists it at 0x81010001 (RSA) or 0x81010002
// (ECC), and writes its certificate into NV index 0x01c00002 or 0x01c0000a with the attributes of the TCG EK Credential
// Profile, section 2.2.1. The certificate comes last: a manufacture that was interrupted is repeated by calling
// Manufacture again. A TPM that has both already is left as it is, and Identity.Existing is true. One TPM may get both
// algorithms by two calls.
func (t *TPM) Manufacture(ctx context.Context, o ManufactureOptions) (*Identity, error) {
	id, err := t.manufacture(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("tpmsim: manufacturing %s: %w", label(t.opts), err)
	}
	return id, nil
}

func (t *TPM) manufacture(ctx context.Context, o ManufactureOptions) (id *Identity, err error) {
	p, err := profileOf(o.Algorithm)
	if err != nil {
		return nil, err
	}
	id, err = t.identity(ctx, p)
	if err == nil && (id.Certificate != nil || o.WithoutCertificate) {
		return id, nil
	}
	if err != nil && !errors.Is(err, ErrNotManufactured) {
		return nil, err
	}
	if o.Certificate == nil && !o.WithoutCertificate {
		return nil, errors.New("ManufactureOptions.Certificate is nil")
	}
	c := t.Client()
	defer func() { err = errors.Join(err, c.Close()) }()
	public, err := makeEK(ctx, c, p)
	if err != nil {
		return nil, err
	}
	id, err = newIdentity(p, public)
	if err != nil || o.WithoutCertificate {
		return id, err
	}
	if id.Certificate, err = survivor(c, p, id.Public); err != nil || id.Certificate != nil {
		return id, err
	}
	id.Certificate, err = o.Certificate(id.Public, p.algorithm)
	if err != nil {
		return nil, fmt.Errorf("getting a certificate for the EK: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return id, writeCertificate(ctx, c, p, id.Certificate)
}

// survivor is the certificate of this EK that outlived TPM2_Clear, which removes the persistent EK, whose seed stays, but not what the platform has
// defined in NV (TPM 2.0 Library, Part 3, section 24.6); nil: there is none.
func survivor(c transport.TPM, p *ekProfile, ek crypto.PublicKey) ([]byte, error) {
	der, err := readNV(c, p.certificate)
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil // a write that was interrupted
	}
	if key, ok := ek.(interface{ Equal(crypto.PublicKey) bool }); !ok || !key.Equal(cert.PublicKey) {
		return nil, nil
	}
	return der, nil
}

// makeEK returns the public area of the persistent EK, making that first if need be.
func makeEK(ctx context.Context, c transport.TPM, p *ekProfile) (*tpm2.TPM2BPublic, error) {
	if public, err := readEK(c, p); err == nil {
		return public, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	primary, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHEndorsement,
		InPublic:      tpm2.New2B(p.template),
	}.Execute(c)
	if err != nil {
		return nil, fmt.Errorf("TPM2_CreatePrimary of the %s EK: %w", p.algorithm, err)
	}
	_, err = tpm2.EvictControl{
		Auth:             tpm2.TPMRHOwner,
		ObjectHandle:     tpm2.NamedHandle{Handle: primary.ObjectHandle, Name: primary.Name},
		PersistentHandle: p.persistent,
	}.Execute(c)
	if err != nil {
		return nil, fmt.Errorf("TPM2_EvictControl of the EK to %#x: %w", p.persistent, err)
	}
	if _, err := (tpm2.FlushContext{FlushHandle: primary.ObjectHandle}).Execute(c); err != nil {
		return nil, fmt.Errorf("TPM2_FlushContext of the EK: %w", err)
	}
	return &primary.OutPublic, nil
}

func readEK(c transport.TPM, p *ekProfile) (*tpm2.TPM2BPublic, error) {
	r, err := tpm2.ReadPublic{ObjectHandle: p.persistent}.Execute(c)
	if err != nil {
		return nil, fmt.Errorf("TPM2_ReadPublic of the EK at %#x: %w", p.persistent, err)
	}
	return &r.OutPublic, nil
}

func newIdentity(p *ekProfile, public *tpm2.TPM2BPublic) (*Identity, error) {
	area, err := public.Contents()
	if err != nil {
		return nil, fmt.Errorf("reading the EK's public area: %w", err)
	}
	key, err := publicKey(area)
	if err != nil {
		return nil, err
	}
	return &Identity{Algorithm: p.algorithm, Public: key, TPM2BPublic: tpm2.Marshal(*public)}, nil
}

// Identity returns the EK and its certificate as they are in the TPM; the RSA one if it has both. The error wraps
// [ErrNotManufactured] if it has none.
func (t *TPM) Identity(ctx context.Context) (*Identity, error) {
	var errs []error
	for _, a := range Algorithms() {
		p, err := profileOf(a)
		if err != nil {
			return nil, err
		}
		id, err := t.identity(ctx, p)
		if err == nil {
			return id, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("tpmsim: identity of %s: %w", label(t.opts), errors.Join(errs...))
}

func (t *TPM) identity(ctx context.Context, p *ekProfile) (id *Identity, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := t.Client()
	defer func() { err = errors.Join(err, c.Close()) }()
	return readIdentity(c, p)
}

// ReadIdentity is [TPM.Identity] of any TPM, by a connection to it.
func ReadIdentity(c transport.TPM) (*Identity, error) {
	var errs []error
	for _, a := range Algorithms() {
		p, err := profileOf(a)
		if err != nil {
			return nil, err
		}
		id, err := readIdentity(c, p)
		if err == nil {
			return id, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("tpmsim: identity of a TPM: %w", errors.Join(errs...))
}

func readIdentity(c transport.TPM, p *ekProfile) (id *Identity, err error) {
	public, err := readEK(c, p)
	if isMissing(err) {
		return nil, fmt.Errorf("%w: no %s EK: %w", ErrNotManufactured, p.algorithm, err)
	}
	if err != nil {
		return nil, err
	}
	id, err = newIdentity(p, public)
	if err != nil {
		return nil, err
	}
	id.Existing = true
	id.Certificate, err = readNV(c, p.certificate)
	if err != nil && !isMissing(err) {
		return nil, err
	}
	return id, nil
}

// isMissing tells that the TPM has no such object or index, or an index that was never written.
func isMissing(err error) bool {
	return errors.Is(err, tpm2.TPMRCHandle) || errors.Is(err, tpm2.TPMRCNVUninitialized)
}

// ReplaceEKCertificate puts another certificate (DER) into the NV index of the EK that [TPM.Identity] returns, as a repaired
// or a forged TPM would have it. It is not checked against the EK.
func (t *TPM) ReplaceEKCertificate(ctx context.Context, der []byte) error {
	err := t.changeEKCertificate(ctx, func(c transport.TPM, p *ekProfile) error { return writeCertificate(ctx, c, p, der) })
	if err != nil {
		return fmt.Errorf("tpmsim: replacing the EK certificate of %s: %w", label(t.opts), err)
	}
	return nil
}

// RemoveEKCertificate removes the NV index that holds the certificate of the EK which [TPM.Identity] returns; it is no error when
// there is none. A later [TPM.Manufacture] makes one, unless it is told not to.
func (t *TPM) RemoveEKCertificate(ctx context.Context) error {
	if err := t.changeEKCertificate(ctx, removeCertificate); err != nil {
		return fmt.Errorf("tpmsim: removing the EK certificate of %s: %w", label(t.opts), err)
	}
	return nil
}

func (t *TPM) changeEKCertificate(ctx context.Context, change func(transport.TPM, *ekProfile) error) (err error) {
	id, err := t.Identity(ctx)
	if err != nil {
		return err
	}
	p, err := profileOf(id.Algorithm)
	if err != nil {
		return err
	}
	c := t.Client()
	defer func() { err = errors.Join(err, c.Close()) }()
	return change(c, p)
}
