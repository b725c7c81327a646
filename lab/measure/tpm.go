package measure

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// algorithms are the banks that package ima and bootlog know (TCG Algorithm Registry).
var algorithms = map[crypto.Hash]tpm2.TPMAlgID{
	crypto.SHA1: tpm2.TPMAlgSHA1, crypto.SHA256: tpm2.TPMAlgSHA256, crypto.SHA384: tpm2.TPMAlgSHA384, crypto.SHA512: tpm2.TPMAlgSHA512,
}

// tpm is a client of the node's TPM.
type tpm struct {
	client transport.TPMCloser
	banks  []crypto.Hash // that are allocated, in the TPM's order
}

func openTPM(open func() (transport.TPMCloser, error)) (*tpm, error) {
	client, err := open()
	if err != nil {
		return nil, err
	}
	t := &tpm{client: client}
	if t.banks, err = allocated(client); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return t, nil
}

func (t *tpm) close() error { return t.client.Close() }

// allocated asks for the banks that have PCRs: TPM 2.0 Library, Part 2, TPM_CAP_PCRS.
func allocated(client transport.TPM) ([]crypto.Hash, error) {
	answer, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(client)
	if err != nil {
		return nil, fmt.Errorf("ask the TPM for its PCR banks: %w", err)
	}
	list, err := answer.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, fmt.Errorf("ask the TPM for its PCR banks: %w", err)
	}
	var banks []crypto.Hash
	for _, s := range list.PCRSelections {
		if !slices.ContainsFunc(s.PCRSelect, func(b byte) bool { return b != 0 }) {
			continue
		}
		bank, err := s.Hash.Hash()
		if err != nil || algorithms[bank] == 0 {
			return nil, fmt.Errorf("the TPM has a PCR bank of algorithm %#04x: measurements are made for SHA-1, SHA-256, SHA-384 and SHA-512", uint16(s.Hash))
		}
		banks = append(banks, bank)
	}
	if !slices.Contains(banks, aggregateBank) {
		return nil, fmt.Errorf("the TPM has no PCR bank of %v, which Keylime needs", aggregateBank)
	}
	return banks, nil
}

// extend extends one PCR in all banks at once: TPM 2.0 Library, Part 3, TPM2_PCR_Extend.
func (t *tpm) extend(ctx context.Context, pcr int, digests map[crypto.Hash][]byte) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("extend PCR %d: %w", pcr, context.Cause(ctx))
	}
	command := tpm2.PCRExtend{PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)}}
	for _, bank := range t.banks {
		command.Digests.Digests = append(command.Digests.Digests, tpm2.TPMTHA{HashAlg: algorithms[bank], Digest: digests[bank]})
	}
	if _, err := command.Execute(t.client); err != nil {
		return fmt.Errorf("extend PCR %d: %w", pcr, err)
	}
	return nil
}

// read gives the value of one PCR.
func (t *tpm) read(ctx context.Context, bank crypto.Hash, pcr int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("read PCR %d: %w", pcr, context.Cause(ctx))
	}
	answer, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: algorithms[bank], PCRSelect: tpm2.PCClientCompatible.PCRs(uint(pcr))},
	}}}.Execute(t.client)
	if err != nil {
		return nil, fmt.Errorf("read PCR %d: %w", pcr, err)
	}
	if len(answer.PCRValues.Digests) != 1 {
		return nil, fmt.Errorf("read PCR %d: the TPM gave %d values of bank %v", pcr, len(answer.PCRValues.Digests), bank)
	}
	return answer.PCRValues.Digests[0].Buffer, nil
}
