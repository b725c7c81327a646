package verify

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/lab/plan"
)

// quotePCR is the PCR that binds an agent's payload key into its quote (Keylime's TPM_DATA_PCR).
const quotePCR = 16

// checkIdentityQuote checks the answer to /quotes/identity as Keylime's tenant does: signed by the AK, over the nonce, and
// with PCR 16 extended from zero by the digest of the public key beside it.
func checkIdentityQuote(body, ak []byte, nonce string) (*agent.Quote, error) {
	answer, err := agent.CheckAnswer(body, ak, nonce)
	if err != nil {
		return nil, err
	}
	value, ok := answer.Quote.PCR(quotePCR)
	if !ok {
		return nil, fmt.Errorf("the quote does not cover PCR %d", quotePCR)
	}
	bank, err := answer.Quote.Hash.Hash()
	if err != nil {
		return nil, fmt.Errorf("the hash of the quote's PCR bank: %w", err)
	}
	key := bank.New()
	key.Write([]byte(answer.PubKey))
	want := bank.New()
	want.Write(make([]byte, bank.Size()))
	want.Write(key.Sum(nil))
	if !bytes.Equal(value, want.Sum(nil)) {
		return nil, errors.New("PCR 16 does not bind the public key of the answer")
	}
	return answer.Quote, nil
}

// Keylime's names of AK schemes and PCR banks.
var (
	schemes = map[tpm2.TPMAlgID]string{tpm2.TPMAlgRSASSA: "rsassa", tpm2.TPMAlgRSAPSS: "rsapss", tpm2.TPMAlgECDSA: "ecdsa"}
	banks   = map[tpm2.TPMAlgID]string{tpm2.TPMAlgSHA1: "sha1", tpm2.TPMAlgSHA256: "sha256", tpm2.TPMAlgSHA384: "sha384", tpm2.TPMAlgSHA512: "sha512"}
)

// checkAlgorithms wants the AK's scheme and the PCR bank to be those that were planned for the agent.
func checkAlgorithms(q *agent.Quote, planned plan.Agent) error {
	scheme, bank := schemes[q.Signature.SigAlg], banks[q.Hash]
	if want := cmp.Or(planned.HashAlgorithm, "sha256"); scheme != planned.AKAlgorithm || bank != want {
		return fmt.Errorf("the agent signs by %s (0x%04x) and quotes PCR bank %s (0x%04x); the specification asks for %s and %s",
			scheme, uint16(q.Signature.SigAlg), bank, uint16(q.Hash), planned.AKAlgorithm, want)
	}
	return nil
}
