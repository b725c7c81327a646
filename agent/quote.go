package agent

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// boundPCR is the resettable debug PCR that binds the payload key to a quote.
const boundPCR = 16

// maxNonce is the longest nonce in bytes the Rust agent accepts.
const maxNonce = 64

// quoteAttempts bounds how often a quote is repeated because PCRs changed
// between reading and quoting them.
const quoteAttempts = 5

var (
	// errForeignKey means that the TPM signed with another key than this AK:
	// after a reset another client's key got the AK's handle.
	errForeignKey = errors.New("the handle of the AK now belongs to another key")
	// errPCRsChanged means that quoteAttempts were not enough.
	errPCRsChanged = errors.New("PCR values changed between reading and quoting them")
	// errMask means that a mask names a PCR that no PC Client TPM has.
	errMask = errors.New("only PCRs 0-23 can be quoted")
)

// maskPCRs lists the PCRs of a mask, bit 0 being PCR 0, and adds PCR 16.
func maskPCRs(mask uint32) ([]uint, error) {
	if mask>>24 != 0 {
		return nil, fmt.Errorf("mask 0x%x: %w", mask, errMask)
	}
	mask |= 1 << boundPCR
	var pcrs []uint
	for i := range uint(24) {
		if mask>>i&1 == 1 {
			pcrs = append(pcrs, i)
		}
	}
	return pcrs, nil
}

// quote binds the payload key to PCR 16 and quotes that and the PCRs in mask.
// No other operation of this agent comes in between; what another client of the
// same TPM does in between is noticed and the quote repeated.
func (a *Agent) quote(ctx context.Context, nonce []byte, mask uint32) (string, error) {
	pcrs, err := maskPCRs(mask)
	if err != nil {
		return "", err
	}
	q, err := a.stableQuote(ctx, func(t transport.TPM) (*Quote, error) {
		if err := a.bindPayloadKey(t); err != nil {
			return nil, err
		}
		q, err := a.quoteOnce(t, nonce, pcrs)
		if err != nil {
			return nil, err
		}
		if bound, _ := q.PCR(boundPCR); !bytes.Equal(bound, a.boundValue) {
			return nil, errPCRsChanged
		}
		return q, nil
	})
	if err != nil {
		return "", err
	}
	return q.String(), nil
}

// stableQuote loads the AK and repeats once until no PCR changed meanwhile.
func (a *Agent) stableQuote(ctx context.Context, once func(t transport.TPM) (*Quote, error)) (q *Quote, err error) {
	err = a.device.use(ctx, func(t transport.TPM) error {
		if err := a.loadAK(t); err != nil {
			return err
		}
		for range quoteAttempts {
			var err error
			if q, err = once(t); !errors.Is(err, errPCRsChanged) {
				return err
			}
		}
		return fmt.Errorf("%d attempts: %w", quoteAttempts, errPCRsChanged)
	})
	return q, err
}

// quoteOnce quotes the PCRs, which are in ascending order. It fails with
// errPCRsChanged if they changed between reading and quoting.
func (a *Agent) quoteOnce(t transport.TPM, nonce []byte, pcrs []uint) (*Quote, error) {
	selection := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash:      a.hash,
		PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...),
	}}}
	values, err := readPCRs(t, a.hash, pcrs)
	if err != nil {
		return nil, err
	}
	answer, err := tpm2.Quote{
		SignHandle:     tpm2.AuthHandle{Handle: a.device.ak.handle, Name: a.device.ak.name, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: nonce},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect:      selection,
	}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("TPM2_Quote: %w", err)
	}
	attest, err := answer.Quoted.Contents()
	if err != nil {
		return nil, fmt.Errorf("decoding the quote: %w", err)
	}
	if !bytes.Equal(attest.QualifiedSigner.Buffer, a.device.ak.qualified) {
		return nil, errForeignKey
	}
	q := &Quote{
		Attest:       *attest,
		AttestRaw:    answer.Quoted.Bytes(),
		Signature:    answer.Signature,
		SignatureRaw: tpm2.Marshal(answer.Signature),
		Hash:         a.hash,
		PCRs:         pcrs,
		Values:       values,
	}
	if q.checkDigest() != nil {
		return nil, errPCRsChanged
	}
	return q, nil
}

// bindPayloadKey sets PCR 16 to the digest of the payload key's public PEM.
func (a *Agent) bindPayloadKey(t transport.TPM) error {
	pcr := tpm2.AuthHandle{Handle: boundPCR, Auth: tpm2.PasswordAuth(nil)}
	if _, err := (tpm2.PCRReset{PCRHandle: pcr}).Execute(t); err != nil {
		return fmt.Errorf("TPM2_PCR_Reset(16): %w", err)
	}
	_, err := tpm2.PCRExtend{
		PCRHandle: pcr,
		Digests: tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{
			{HashAlg: a.hash, Digest: a.payloadDigest},
		}},
	}.Execute(t)
	if err != nil {
		return fmt.Errorf("TPM2_PCR_Extend(16): %w", err)
	}
	return nil
}

// readPCRs reads PCR values in the order of pcrs; a TPM returns at most eight
// per command.
func readPCRs(t transport.TPM, hash tpm2.TPMAlgID, pcrs []uint) ([][]byte, error) {
	values := make([][]byte, 0, len(pcrs))
	for len(values) < len(pcrs) {
		answer, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{
			PCRSelections: []tpm2.TPMSPCRSelection{{
				Hash:      hash,
				PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs[len(values):]...),
			}},
		}}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("TPM2_PCR_Read: %w", err)
		}
		got := answer.PCRValues.Digests
		if len(got) == 0 || len(values)+len(got) > len(pcrs) {
			return nil, fmt.Errorf("TPM2_PCR_Read: %d values for %d PCRs of bank 0x%04x: is the bank allocated?", len(got), len(pcrs)-len(values), hash)
		}
		for _, digest := range got {
			values = append(values, digest.Buffer)
		}
	}
	return values, nil
}

// boundPCRValue is the value of a reset PCR after one extension with digest.
func boundPCRValue(hash crypto.Hash, digest []byte) []byte {
	h := hash.New()
	h.Write(make([]byte, hash.Size()))
	h.Write(digest)
	return h.Sum(nil)
}
