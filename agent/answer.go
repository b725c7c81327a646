package agent

import (
	"encoding/json"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Answer is what a quote request of Keylime's agent API brings, of this agent or of any other.
type Answer struct {
	Quote  *Quote
	PubKey string // the agent's payload key, PEM; "" where the request did not ask for it
}

// CheckAnswer reads the body of an answer to /quotes/identity or /quotes/integrity, and checks its quote: signed by the AK (a
// TPM2B_PUBLIC, as the registrar holds it in aik_tpm), over the nonce, with the PCR values that it comes with. The error wraps
// ErrQuoteFormat or ErrQuoteInvalid where the quote is at fault.
func CheckAnswer(body, ak []byte, nonce string) (*Answer, error) {
	var envelope struct {
		Results struct {
			Quote  string `json:"quote"`
			PubKey string `json:"pubkey"`
		} `json:"results"`
	}
	if err := json.Unmarshal(body, &envelope); err != nil {
		return nil, fmt.Errorf("the answer is not JSON: %w", err)
	}
	quote, err := ParseQuote(envelope.Results.Quote)
	if err != nil {
		return nil, err
	}
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](ak)
	if err != nil {
		return nil, fmt.Errorf("parse the AK's TPM2B_PUBLIC: %w", err)
	}
	area, err := public.Contents()
	if err != nil {
		return nil, fmt.Errorf("parse the AK's TPM2B_PUBLIC: %w", err)
	}
	if err := quote.Verify(area, []byte(nonce)); err != nil {
		return nil, err
	}
	return &Answer{Quote: quote, PubKey: envelope.Results.PubKey}, nil
}
