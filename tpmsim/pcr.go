package tpmsim

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// pcrCount is how many PCRs both backends have in each bank.
const pcrCount = 24

// ExtendPCR extends a PCR (0 to 23) in the bank of alg by a digest of that algorithm's size.
func (t *TPM) ExtendPCR(ctx context.Context, pcr int, alg tpm2.TPMAlgID, digest []byte) (err error) {
	if pcr < 0 || pcr >= pcrCount {
		return fmt.Errorf("tpmsim: PCR %d does not exist; there are 0 to %d", pcr, pcrCount-1)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("tpmsim: extending PCR %d of %s: %w", pcr, label(t.opts), err)
	}
	c := t.Client()
	defer func() { err = errors.Join(err, c.Close()) }()
	_, err = tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: alg, Digest: digest}}},
	}.Execute(c)
	if err != nil {
		return fmt.Errorf("tpmsim: extending PCR %d of %s (algorithm %#x, %d bytes): %w", pcr, label(t.opts), alg, len(digest), err)
	}
	return nil
}

// ReadPCRs returns the values of the PCRs (0 to 23 each) in the bank of alg, all of them if none is named.
func (t *TPM) ReadPCRs(ctx context.Context, alg tpm2.TPMAlgID, pcrs ...int) (values map[int][]byte, err error) {
	fail := func(err error) (map[int][]byte, error) {
		return nil, fmt.Errorf("tpmsim: reading PCRs of %s (algorithm %#x): %w", label(t.opts), alg, err)
	}
	if len(pcrs) == 0 {
		for i := range pcrCount {
			pcrs = append(pcrs, i)
		}
	}
	c := t.Client()
	defer func() { err = errors.Join(err, c.Close()) }()
	values = make(map[int][]byte, len(pcrs))
	// One at a time: TPM2_PCR_Read returns at most eight, and which ones has to be worked out from a mask.
	for _, i := range pcrs {
		if err := ctx.Err(); err != nil {
			return fail(err)
		}
		if i < 0 || i >= pcrCount {
			return fail(fmt.Errorf("PCR %d does not exist; there are 0 to %d", i, pcrCount-1))
		}
		r, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
			Hash: alg, PCRSelect: tpm2.PCClientCompatible.PCRs(uint(i)),
		}}}}.Execute(c)
		if err != nil {
			return fail(err)
		}
		if len(r.PCRValues.Digests) != 1 {
			return fail(fmt.Errorf("PCR %d: the bank is not allocated", i))
		}
		values[i] = r.PCRValues.Digests[0].Buffer
	}
	return values, nil
}
