package verify

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"keylab.dev/keylab/agent"
)

// quotePCR is the PCR that binds an agent's payload key into its quote (Keylime's TPM_DATA_PCR).
const quotePCR = 16

// checkIdentityQuote checks the answer to /quotes/identity as Keylime's tenant does: signed by the AK, over the nonce, and
// with PCR 16 extended from zero by the digest of the public key beside it.
func checkIdentityQuote(body, ak []byte, nonce string) error {
	var answer struct {
		Results struct {
			Quote  string `json:"quote"`
			PubKey string `json:"pubkey"`
		} `json:"results"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("the answer is not JSON: %w", err)
	}
	quote, err := agent.ParseQuote(answer.Results.Quote)
	if err != nil {
		return err
	}
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](ak)
	if err != nil {
		return fmt.Errorf("parse the registrar's aik_tpm: %w", err)
	}
	area, err := public.Contents()
	if err != nil {
		return fmt.Errorf("parse the registrar's aik_tpm: %w", err)
	}
	if err := quote.Verify(area, []byte(nonce)); err != nil {
		return err
	}
	value, ok := quote.PCR(quotePCR)
	if !ok {
		return fmt.Errorf("the quote does not cover PCR %d", quotePCR)
	}
	key := sha256.Sum256([]byte(answer.Results.PubKey))
	want := sha256.Sum256(append(make([]byte, sha256.Size), key[:]...))
	if string(value) != string(want[:]) {
		return errors.New("PCR 16 does not bind the public key of the answer")
	}
	return nil
}
