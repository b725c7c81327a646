package verify

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"keylab.dev/keylab/agent"
)

// quotePCR is the PCR that binds an agent's payload key into its quote (Keylime's TPM_DATA_PCR).
const quotePCR = 16

// checkIdentityQuote checks the answer to /quotes/identity as Keylime's tenant does: signed by the AK, over the nonce, and
// with PCR 16 extended from zero by the digest of the public key beside it.
func checkIdentityQuote(body, ak []byte, nonce string) error {
	answer, err := agent.CheckAnswer(body, ak, nonce)
	if err != nil {
		return err
	}
	value, ok := answer.Quote.PCR(quotePCR)
	if !ok {
		return fmt.Errorf("the quote does not cover PCR %d", quotePCR)
	}
	key := sha256.Sum256([]byte(answer.PubKey))
	want := sha256.Sum256(append(make([]byte, sha256.Size), key[:]...))
	if !bytes.Equal(value, want[:]) {
		return errors.New("PCR 16 does not bind the public key of the answer")
	}
	return nil
}
