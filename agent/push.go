package agent

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// What the push model needs of the TPM besides; package push has the protocol.

// Capabilities is what an agent tells the verifier about its TPM, under Keylime's
// names of the algorithms.
type Capabilities struct {
	SignatureSchemes []string          // those the TPM implements: "rsassa", "ecdsa", ...
	Banks            map[string][]uint // allocated PCR banks ("sha256", ...) and their PCRs, ascending
	AKName           []byte            // Name of the AK: nameAlg and digest (TPM 2.0 Part 1, "Names")
	AKPublic         []byte            // TPMT_PUBLIC of the AK
}

// signatureSchemes maps TPM algorithms to Keylime's names.
var signatureSchemes = map[tpm2.TPMAlgID]string{
	tpm2.TPMAlgRSASSA:    AKRSASSA,
	tpm2.TPMAlgRSAPSS:    AKRSAPSS,
	tpm2.TPMAlgECDSA:     AKECDSA,
	tpm2.TPMAlgECSchnorr: "ecschnorr",
}

// Capabilities asks the TPM. Errors match ErrTPM.
func (a *Agent) Capabilities(ctx context.Context) (*Capabilities, error) {
	c := &Capabilities{AKPublic: tpm2.Marshal(a.ak.area)}
	name, err := tpm2.ObjectName(&a.ak.area)
	if err != nil {
		return nil, fmt.Errorf("computing the AK's name: %w", err)
	}
	c.AKName = name.Buffer
	err = a.device.use(ctx, func(t transport.TPM) (err error) {
		if c.SignatureSchemes, err = readSignatureSchemes(t); err != nil {
			return err
		}
		c.Banks, err = readBanks(t)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

func readSignatureSchemes(t transport.TPM) ([]string, error) {
	answer, err := tpm2.GetCapability{Capability: tpm2.TPMCapAlgs, PropertyCount: 128}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("TPM2_GetCapability(algorithms): %w", err)
	}
	list, err := answer.CapabilityData.Data.Algorithms()
	if err != nil {
		return nil, fmt.Errorf("decoding the algorithm list: %w", err)
	}
	var found []string
	for _, property := range list.AlgProperties {
		if name, ok := signatureSchemes[property.Alg]; ok {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found, nil
}

func readBanks(t transport.TPM) (map[string][]uint, error) {
	answer, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("TPM2_GetCapability(PCRs): %w", err)
	}
	list, err := answer.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, fmt.Errorf("decoding the PCR banks: %w", err)
	}
	banks := map[string][]uint{}
	for _, selection := range list.PCRSelections {
		for name, algorithm := range hashAlgorithms {
			if pcrs := selected(selection.PCRSelect); algorithm == selection.Hash && len(pcrs) > 0 {
				banks[name] = pcrs
			}
		}
	}
	return banks, nil
}

// selected lists the PCRs of a bit map as TPMS_PCR_SELECTION has it (Part 2,
// section 10.6.2): bit 0 of octet 0 is PCR 0.
func selected(bitmap []byte) []uint {
	var pcrs []uint
	for i := range uint(8 * len(bitmap)) {
		if bitmap[i/8]>>(i%8)&1 == 1 {
			pcrs = append(pcrs, i)
		}
	}
	return pcrs
}

// Certify lets the AK certify itself over a challenge of 1 to 64 bytes
// (TPM2_Certify, Part 3, section 18.2): proof that this TPM holds the AK now. It
// returns TPMS_ATTEST and TPMT_SIGNATURE. Errors match ErrTPM.
func (a *Agent) Certify(ctx context.Context, challenge []byte) (attest, signature []byte, err error) {
	if err := checkNonce(challenge); err != nil {
		return nil, nil, err
	}
	err = a.device.use(ctx, func(t transport.TPM) error {
		if err := a.loadAK(t); err != nil {
			return err
		}
		ak := tpm2.AuthHandle{Handle: a.device.ak.handle, Name: a.device.ak.name, Auth: tpm2.PasswordAuth(nil)}
		answer, err := tpm2.Certify{
			ObjectHandle:   ak,
			SignHandle:     ak,
			QualifyingData: tpm2.TPM2BData{Buffer: challenge},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		}.Execute(t)
		if err != nil {
			return fmt.Errorf("TPM2_Certify: %w", err)
		}
		contents, err := answer.CertifyInfo.Contents()
		if err != nil {
			return fmt.Errorf("decoding the certification: %w", err)
		}
		if !bytes.Equal(contents.QualifiedSigner.Buffer, a.device.ak.qualified) {
			return errForeignKey
		}
		attest, signature = answer.CertifyInfo.Bytes(), tpm2.Marshal(answer.Signature)
		return nil
	})
	return attest, signature, err
}

// QuotePCRs quotes exactly these PCRs (0-23, in any order), at least one, of the
// bank Config.HashAlgorithm names, for a nonce of 1 to 64 bytes. Unlike a quote of
// the pull model it binds nothing to PCR 16. Errors of the TPM match ErrTPM.
func (a *Agent) QuotePCRs(ctx context.Context, nonce []byte, pcrs []uint) (*Quote, error) {
	if err := checkNonce(nonce); err != nil {
		return nil, err
	}
	if len(pcrs) == 0 {
		return nil, fmt.Errorf("no PCRs: %w", errMask)
	}
	pcrs = slices.Compact(slices.Sorted(slices.Values(pcrs)))
	if last := pcrs[len(pcrs)-1]; last > 23 {
		return nil, fmt.Errorf("PCR %d: %w", last, errMask)
	}
	return a.stableQuote(ctx, func(t transport.TPM) (*Quote, error) {
		return a.quoteOnce(t, nonce, pcrs)
	})
}

func checkNonce(nonce []byte) error {
	if len(nonce) < 1 || len(nonce) > maxNonce {
		return fmt.Errorf("nonce of %d bytes: want 1 to %d", len(nonce), maxNonce)
	}
	return nil
}
