package keylime

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
)

// RuntimePolicy is what the verifier allows an agent's kernel to have measured (keylime/ima/ima.py, RuntimePolicyType), as far as it is needed here.
type RuntimePolicy struct {
	Digests  map[string][]string `json:"digests"`  // by path: hexadecimal, without the algorithm
	Excludes []string            `json:"excludes"` // regular expressions of paths that are not checked
	// VerificationKeys are those by whose signatures files are trusted: JSON of an IMA keyring (keylime/ima/file_signatures.py), or nothing.
	VerificationKeys string `json:"verification-keys"`
}

// Keys are the public keys by whose signatures files are trusted, in DER.
func (p RuntimePolicy) Keys() ([][]byte, error) {
	if p.VerificationKeys == "" {
		return nil, nil
	}
	var ring struct {
		Pubkeys [][]byte `json:"pubkeys"` // base64
	}
	if err := json.Unmarshal([]byte(p.VerificationKeys), &ring); err != nil {
		return nil, fmt.Errorf("the keys of a runtime policy: %w", err)
	}
	return ring.Pubkeys, nil
}

// RuntimePolicy reads the runtime policy of that name; that of an agent which was added without a name has the agent's UUID. The error is [ErrNotFound]
// when there is none.
func (c *VerifierClient) RuntimePolicy(ctx context.Context, name string) (RuntimePolicy, error) {
	var answer struct {
		RuntimePolicy string `json:"runtime_policy"` // JSON
	}
	var p RuntimePolicy
	if _, err := c.call(ctx, http.MethodGet, "/allowlists/"+url.PathEscape(name), nil, &answer); err != nil {
		return p, err
	}
	if err := json.Unmarshal([]byte(answer.RuntimePolicy), &p); err != nil {
		return p, fmt.Errorf("runtime policy %s: %w", name, err)
	}
	return p, nil
}

// UpdateRuntimePolicy puts another runtime policy, which keylime-policy made, in place of the one of that name, for all agents that have it. The verifier
// judges by it from the next quote on; an agent that it has given up it does not ask again by itself. The error is [ErrNotFound] when there is none.
func (c *VerifierClient) UpdateRuntimePolicy(ctx context.Context, name string, policy []byte) error {
	_, err := c.call(ctx, http.MethodPut, "/allowlists/"+url.PathEscape(name), map[string]any{"runtime_policy": policy}, nil) // in base64, as []byte are
	return err
}

// UpdateMeasuredBootPolicy does the same with a reference state, which is JSON.
func (c *VerifierClient) UpdateMeasuredBootPolicy(ctx context.Context, name string, policy json.RawMessage) error {
	_, err := c.call(ctx, http.MethodPut, "/mbpolicies/"+url.PathEscape(name), map[string]any{"mb_policy": string(policy)}, nil)
	return err
}

// MeasuredBootPolicy reads the reference state of that name, as JSON; that of an agent which was added without a name has the agent's UUID. It is
// empty for an agent that was added without one. The error is [ErrNotFound] when the name is not known.
func (c *VerifierClient) MeasuredBootPolicy(ctx context.Context, name string) (json.RawMessage, error) {
	var answer struct {
		MBPolicy *string `json:"mb_policy"` // JSON
	}
	if _, err := c.call(ctx, http.MethodGet, "/mbpolicies/"+url.PathEscape(name), nil, &answer); err != nil {
		return nil, err
	}
	return json.RawMessage(deref(answer.MBPolicy)), nil
}
