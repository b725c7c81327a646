package keylime

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// OperationalState is where an agent stands at the verifier in the pull model (keylime/common/states.py).
type OperationalState int

// The verifier's states. An agent in the push model has none: NoState.
const (
	NoState       OperationalState = -1
	Registered    OperationalState = 0
	Start         OperationalState = 1
	Saved         OperationalState = 2
	GetQuote      OperationalState = 3 // attested regularly
	GetQuoteRetry OperationalState = 4 // the agent did not answer
	ProvideV      OperationalState = 5
	ProvideVRetry OperationalState = 6
	Failed        OperationalState = 7 // not answering for too long, or failed a check; no longer asked
	Terminated    OperationalState = 8 // about to be deleted
	InvalidQuote  OperationalState = 9 // a quote failed its checks; no longer asked
	TenantFailed  OperationalState = 10
)

var stateNames = map[OperationalState]string{NoState: "None", Registered: "Registered", Start: "Start", Saved: "Saved", GetQuote: "Get Quote",
	GetQuoteRetry: "Get Quote (retry)", ProvideV: "Provide V", ProvideVRetry: "Provide V (retry)", Failed: "Failed",
	Terminated: "Terminated", InvalidQuote: "Invalid Quote", TenantFailed: "Tenant Quote Failed"}

// String is Keylime's own name of the state.
func (s OperationalState) String() string {
	if n, ok := stateNames[s]; ok {
		return n
	}
	return fmt.Sprintf("OperationalState(%d)", int(s))
}

// Stopped tells whether the verifier has given up asking the agent for quotes, until it is reactivated.
func (s OperationalState) Stopped() bool {
	return s == Failed || s == InvalidQuote || s == TenantFailed || s == Terminated
}

// Untrusted tells whether the verifier does not trust the agent any more: it has given up asking it, or, in the push model, the last evidence failed
// its checks or none came for too long.
func (a VerifierAgent) Untrusted() bool {
	if a.Push() {
		return a.AttestationStatus == "FAIL" || a.Overdue()
	}
	return a.OperationalState.Stopped()
}

// Overdue tells whether an agent of the push model has sent nothing for five quote intervals. Its next good evidence ends that.
func (a VerifierAgent) Overdue() bool { return a.Push() && a.AttestationStatus == "TIMEOUT" }

// Push tells whether the agent is one of the push model, whose address the verifier does not know (is_push_mode_agent in keylime/agent_util.py). Its
// operational state means nothing: Keylime 7.14 leaves it at what the last failure made of it.
func (a VerifierAgent) Push() bool { return a.IP == "" && a.Port == 0 }

// Verdict is the verifier's word on the agent, for people: its state, and the event that brought it there, which the push model does not tell.
func (a VerifierAgent) Verdict() string {
	switch {
	case a.Push():
		return a.AttestationStatus
	case a.LastEventID == "":
		return a.OperationalState.String()
	}
	return fmt.Sprintf("%s, last event %q", a.OperationalState, a.LastEventID)
}

// VerifierAgent is an agent's state at the verifier. Trust the counts and the times: Keylime shows attestation status PASS for an agent
// that has not been attested yet.
type VerifierAgent struct {
	UUID                      string
	OperationalState          OperationalState
	AttestationStatus         string    // "PASS", "FAIL", "PENDING", "TIMEOUT" (push)
	AttestationCount          int       // successful attestations
	LastReceivedQuote         time.Time // zero: none; whole seconds
	LastSuccessfulAttestation time.Time // zero: none; whole seconds
	SeverityLevel             int       // of the last failure; 0: none
	LastEventID               string    // of the last failure, e.g. "qoute_validation.quote_validation"; "": none
	IP                        string    // contact address, which may be a name
	Port                      int
	VerifierID                string
	TPMPolicy                 string // JSON
	HashAlg, EncAlg, SignAlg  string // of the last quote
	HasRuntimePolicy          bool
	HasMeasuredBootPolicy     bool
}

// VerifierClient reads and changes what the verifier does with agents, as an administrator.
type VerifierClient struct{ *restClient }

// NewVerifierClient talks to the verifier at addr (host:port).
func NewVerifierClient(addr string, tlsConfig *tls.Config, dial Dial) *VerifierClient {
	return &VerifierClient{newREST("verifier", addr, tlsConfig, dial)}
}

// VerifierClient is a client of the configured verifier.
func (c *Configured) VerifierClient(dial Dial) *VerifierClient {
	return NewVerifierClient(c.VerifierAddr, c.PKI.ClientTLS(), dial)
}

// wireAgent is the verifier's form of an agent (process_get_status in keylime/cloud_verifier_common.py).
type wireAgent struct {
	OperationalState          *OperationalState `json:"operational_state"`
	AttestationStatus         string            `json:"attestation_status"`
	AttestationCount          *int              `json:"attestation_count"`
	LastReceivedQuote         *int64            `json:"last_received_quote"`
	LastSuccessfulAttestation *int64            `json:"last_successful_attestation"`
	SeverityLevel             *int              `json:"severity_level"`
	LastEventID               *string           `json:"last_event_id"`
	IP                        *string           `json:"ip"`
	Port                      *int              `json:"port"`
	VerifierID                string            `json:"verifier_id"`
	TPMPolicy                 json.RawMessage   `json:"tpm_policy"`
	HashAlg                   string            `json:"hash_alg"`
	EncAlg                    string            `json:"enc_alg"`
	SignAlg                   string            `json:"sign_alg"`
	HasRuntimePolicy          int               `json:"has_runtime_policy"`
	HasMBRefstate             int               `json:"has_mb_refstate"`
}

func (w wireAgent) agent(uuid string) VerifierAgent {
	a := VerifierAgent{UUID: uuid, OperationalState: NoState, AttestationStatus: w.AttestationStatus, AttestationCount: deref(w.AttestationCount),
		LastReceivedQuote: unixTime(w.LastReceivedQuote), LastSuccessfulAttestation: unixTime(w.LastSuccessfulAttestation),
		SeverityLevel: deref(w.SeverityLevel), LastEventID: deref(w.LastEventID), IP: deref(w.IP), Port: deref(w.Port),
		VerifierID: w.VerifierID, HashAlg: w.HashAlg, EncAlg: w.EncAlg, SignAlg: w.SignAlg,
		HasRuntimePolicy: w.HasRuntimePolicy != 0, HasMeasuredBootPolicy: w.HasMBRefstate != 0}
	if w.OperationalState != nil {
		a.OperationalState = *w.OperationalState
	}
	a.TPMPolicy = string(w.TPMPolicy)
	var quoted string // the policy is JSON inside a JSON string
	if json.Unmarshal(w.TPMPolicy, &quoted) == nil {
		a.TPMPolicy = quoted
	}
	return a
}

func deref[T any](p *T) T {
	var zero T
	if p == nil {
		return zero
	}
	return *p
}

func unixTime(sec *int64) time.Time {
	if sec == nil || *sec <= 0 {
		return time.Time{}
	}
	return time.Unix(*sec, 0)
}

// Agent reads one agent's state. The error is [ErrNotFound] for an agent that was never added, or has been deleted.
func (c *VerifierClient) Agent(ctx context.Context, uuid string) (*VerifierAgent, error) {
	var w wireAgent
	if _, err := c.call(ctx, http.MethodGet, "/agents/"+url.PathEscape(uuid), nil, &w); err != nil {
		return nil, err
	}
	a := w.agent(uuid)
	return &a, nil
}

// Agents reads the state of all agents in one request, by UUID.
func (c *VerifierClient) Agents(ctx context.Context) (map[string]VerifierAgent, error) {
	var all map[string]wireAgent
	if _, err := c.call(ctx, http.MethodGet, "/agents/?bulk=True", nil, &all); err != nil {
		return nil, err
	}
	out := make(map[string]VerifierAgent, len(all))
	for id, w := range all {
		out[id] = w.agent(id)
	}
	return out, nil
}

// Delete removes an agent. done is false when the verifier has only taken note of it (202): a quote is under way, and the agent goes
// when that is over; ask with [VerifierClient.Agent] until [ErrNotFound] comes.
func (c *VerifierClient) Delete(ctx context.Context, uuid string) (done bool, err error) {
	code, err := c.call(ctx, http.MethodDelete, "/agents/"+url.PathEscape(uuid), nil, nil)
	return code == http.StatusOK, err
}

// Reactivate makes the verifier ask an agent again that it had given up ([Failed] or [InvalidQuote]). Do not use it for others: Keylime
// 7.14 asks an agent twice as often when it is reactivated while attested, and answers 200 but does nothing for one that was stopped.
func (c *VerifierClient) Reactivate(ctx context.Context, uuid string) error {
	_, err := c.call(ctx, http.MethodPut, "/agents/"+url.PathEscape(uuid)+"/reactivate", nil, nil)
	return err
}

// Stop makes the verifier no longer ask an agent; the agent's state becomes [TenantFailed]. Only deleting and adding it, e.g. by
// [Enroller.Update], starts it again.
func (c *VerifierClient) Stop(ctx context.Context, uuid string) error {
	_, err := c.call(ctx, http.MethodPut, "/agents/"+url.PathEscape(uuid)+"/stop", nil, nil)
	return err
}
