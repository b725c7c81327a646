package push

import (
	"encoding/json"
	"fmt"
	"time"
)

// The JSON:API documents of Keylime's API version 3.0 (JSON:API 1.1). Only the
// members that an agent sends or heeds are named.

// mediaType is demanded by the verifier for every request with a body.
const mediaType = "application/vnd.api+json"

// document is the outer form of all requests and answers.
type document[T any] struct {
	Data resource[T] `json:"data"`
	Meta *struct {
		Seconds *float64 `json:"seconds_to_next_attestation"`
	} `json:"meta,omitempty"`
}

type resource[T any] struct {
	Type       string `json:"type"`
	ID         string `json:"id,omitempty"`
	Attributes T      `json:"attributes"`
}

func newDocument[T any](kind, id string, attributes T) document[T] {
	return document[T]{Data: resource[T]{Type: kind, ID: id, Attributes: attributes}}
}

// parseDocument decodes an answer whose resource must be of a kind. Errors match
// ErrVerifierAnswer.
func parseDocument[T any](data []byte, kind string) (*document[T], error) {
	var d document[T]
	if err := json.Unmarshal(data, &d); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrVerifierAnswer, err)
	}
	if d.Data.Type != kind {
		return nil, fmt.Errorf("%w: resource of type %q, want %q", ErrVerifierAnswer, d.Data.Type, kind)
	}
	return &d, nil
}

// errorDocument is the form of an answer that is no success.
type errorDocument struct {
	Errors []struct {
		Code   string `json:"code"`
		Title  string `json:"title"`
		Detail string `json:"detail"`
		Source *struct {
			Pointer string `json:"pointer"` // JSON pointer (RFC 6901) into the request
		} `json:"source"`
	} `json:"errors"`
}

// The one way to authenticate: proof of possession of the TPM's AK.
const (
	classPoP   = "pop"
	typeTPMPoP = "tpm_pop"
)

type authMethod struct {
	Class string `json:"authentication_class"`
	Type  string `json:"authentication_type"`
}

// sessionRequest is POST /v3.0/sessions.
type sessionRequest struct {
	AgentID   string       `json:"agent_id"`
	Supported []authMethod `json:"authentication_supported"`
}

type sessionOffer struct {
	Requested []struct {
		authMethod
		Parameters struct {
			Challenge string `json:"challenge"` // base64
		} `json:"chosen_parameters"`
	} `json:"authentication_requested"`
}

// proofRequest is PATCH /v3.0/sessions/{session}.
type proofRequest struct {
	AgentID  string  `json:"agent_id"`
	Provided []proof `json:"authentication_provided"`
}

type proof struct {
	authMethod
	Data proofData `json:"data"`
}

type proofData struct {
	Message   []byte `json:"message"`   // TPMS_ATTEST
	Signature []byte `json:"signature"` // TPMT_SIGNATURE
}

type sessionResult struct {
	Evaluation string    `json:"evaluation"` // "pass" or "fail"
	Token      secret    `json:"token"`
	Received   time.Time `json:"response_received_at"`
	Expires    time.Time `json:"token_expires_at"` // by the verifier's clock, as Received
}

// Classes and types of evidence.
const (
	classCertification = "certification"
	classLog           = "log"
	typeQuote          = "tpm_quote"
	typeIMA            = "ima_log"
	typeUEFI           = "uefi_log"
)

type evidenceKind struct {
	Class string `json:"evidence_class"`
	Type  string `json:"evidence_type"`
}

var (
	kindQuote = evidenceKind{classCertification, typeQuote}
	kindIMA   = evidenceKind{classLog, typeIMA}
	kindUEFI  = evidenceKind{classLog, typeUEFI}
)

func (k evidenceKind) String() string { return k.Class + "/" + k.Type }

// offer is POST /v3.0/agents/{id}/attestations.
type offer struct {
	Supported []supported `json:"evidence_supported"`
	System    systemInfo  `json:"system_info"`
}

type systemInfo struct {
	BootTime string `json:"boot_time"` // RFC 3339, UTC, whole seconds
}

type supported struct {
	evidenceKind
	Capabilities any `json:"capabilities"` // quoteCapabilities or logCapabilities
}

type quoteCapabilities struct {
	Version  string            `json:"component_version"` // of the TPM
	Hashes   []string          `json:"hash_algorithms"`
	Schemes  []string          `json:"signature_schemes"`
	Subjects map[string][]uint `json:"available_subjects"` // PCRs by bank
	Keys     []certifyingKey   `json:"certification_keys"`
}

type certifyingKey struct {
	Class     string   `json:"key_class"`
	Algorithm string   `json:"key_algorithm"`
	Size      int      `json:"key_size"` // bits
	ServerID  string   `json:"server_identifier"`
	LocalID   string   `json:"local_identifier"` // TPM name, hexadecimal
	Hashes    []string `json:"allowable_hash_algorithms"`
	Schemes   []string `json:"allowable_signature_schemes"`
	Public    []byte   `json:"public"` // TPMT_PUBLIC
}

type logCapabilities struct {
	Version    string   `json:"evidence_version,omitempty"`
	Entries    int      `json:"entry_count"`
	Partial    bool     `json:"supports_partial_access"`
	Appendable bool     `json:"appendable"`
	Formats    []string `json:"formats"` // IANA media types
}

// request is the answer to an offer.
type request struct {
	Requested []requested `json:"evidence_requested"`
}

type requested struct {
	evidenceKind
	Parameters parameters `json:"chosen_parameters"`
}

type parameters struct {
	// Of a quote.
	Challenge string            `json:"challenge"` // base64
	Hash      string            `json:"hash_algorithm"`
	Scheme    string            `json:"signature_scheme"`
	Subjects  map[string][]uint `json:"selected_subjects"` // nil for banks that are not wanted
	// Of a log.
	Start *int `json:"starting_offset"`
	Count *int `json:"entry_count"`
}

// collection is PATCH /v3.0/agents/{id}/attestations/{index}.
type collection struct {
	Collected []collected `json:"evidence_collected"`
}

type collected struct {
	evidenceKind
	Data any `json:"data"` // quoteData, imaData or uefiData
}

type quoteData struct {
	PCRs      []byte `json:"subject_data"` // the "pcrblob" of agent.Quote
	Message   []byte `json:"message"`      // TPMS_ATTEST
	Signature []byte `json:"signature"`    // TPMT_SIGNATURE
}

type imaData struct {
	Entries string `json:"entries"`
	Count   int    `json:"entry_count"`
}

type uefiData struct {
	Entries []byte `json:"entries"`
}

// receipt is the answer to evidence; the verifier repeats all of it, which the agent
// has no use for.
type receipt struct{}

// secret is a token that shows itself to nobody but the verifier.
type secret string

const redacted = "[token]"

func (secret) String() string               { return redacted }
func (secret) GoString() string             { return redacted }
func (secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
