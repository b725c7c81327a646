package verify

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/google/go-tpm/tpm2"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/keylime"
)

// identity proves point 4 in the push model, where agents connect to the verifier: what the verifier trusts under a UUID came from the agent on that node
// and from no other, and nobody else can speak for it.
func (v *verification) identity() []check {
	checks := v.perNode("challenge", pointIdentity, v.challenge)
	checks = append(checks, v.perNode("impostor", pointIdentity, v.impostor)...)
	return append(checks, v.perNode("no-session", pointIdentity, v.noSession)...)
}

// challenge takes the latest attestation that the verifier has judged. Its quote must be over the verifier's challenge and signed by the AK that the
// registrar holds; this node's agent must have answered that challenge once, and no other agent at all.
func (v *verification) challenge(ctx context.Context, n Node) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, v.options.Liveness)
	defer cancel()
	record, err := v.records.of(n)
	if err != nil {
		return "", err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var uncounted error
	for {
		a, err := v.nextAttestation(ctx, n, nil)
		if ctx.Err() != nil && uncounted != nil {
			return "", uncounted // which is why there was waiting
		}
		if err != nil {
			return "", err
		}
		evidence, err := v.checkChallenge(n, a, record.AIKTPM)
		if !errors.Is(err, errUncounted) {
			return evidence, err
		}
		uncounted = err
		select {
		case <-ctx.Done():
			return "", err
		case <-tick.C:
		}
	}
}

// errUncounted says that an agent does not know of an answer. It counts one when it has the verifier's word on it, which the verifier may give after its
// verdict is to be seen; and one that was started again does not know what it answered before, but answers the next challenge.
var errUncounted = errors.New("it counts no answer to it")

func (v *verification) checkChallenge(n Node, a *keylime.PushAttestation, ak []byte) (string, error) {
	if a.Evaluation != "pass" {
		return "", fmt.Errorf("the verifier's verdict on the latest attestation is %q", a.Evaluation)
	}
	if _, err := checkPushQuote(a, ak); err != nil {
		return "", err
	}
	challenge := hex.EncodeToString(a.Challenge)
	for _, other := range v.nodes {
		answered, err := other.Served(challenge)
		switch {
		case err != nil:
			return "", fmt.Errorf("read which challenges the agent of %s answered: %w", other.Name, err)
		case other.Name == n.Name && answered == 0:
			return "", fmt.Errorf("the verifier trusts an answer to challenge %s, but the agent of %s: %w", challenge, n.Name, errUncounted)
		case other.Name == n.Name && answered != 1:
			return "", fmt.Errorf("the verifier trusts an answer to challenge %s, but the agent of %s counts %d answers to it, not 1", challenge, n.Name, answered)
		case other.Name != n.Name && answered != 0:
			return "", fmt.Errorf("the verifier's challenge for %s was answered by the agent of %s", n.Name, other.Name)
		}
	}
	return fmt.Sprintf("challenge %s…: signed by the registered AK, answered by this agent once and by no other, verdict pass", challenge[:min(6, len(challenge))]), nil
}

// nextAttestation waits until an agent's latest attestation has been judged, and is another than the one before, if that is not nil.
func (v *verification) nextAttestation(ctx context.Context, n Node, before *keylime.PushAttestation) (*keylime.PushAttestation, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last *keylime.PushAttestation
	for {
		a, err := v.target.Verifier().LatestAttestation(ctx, n.UUID)
		if err != nil && (ctx.Err() == nil || last == nil) {
			return nil, fmt.Errorf("ask the verifier for the latest attestation of %s: %w", n.UUID, err)
		}
		if err != nil { // the time was up in the middle of a question: what was waited for is said below
			a = last
		}
		last = a
		if a.Complete() && (before == nil || !bytes.Equal(a.Challenge, before.Challenge)) {
			return a, nil
		}
		select {
		case <-ctx.Done():
			if a.Complete() {
				return nil, fmt.Errorf("waiting for another attestation: %w", ctx.Err())
			}
			return nil, fmt.Errorf("waiting for the verifier's verdict on the latest attestation: %w; it is at %q", ctx.Err(), a.Stage)
		case <-tick.C:
		}
	}
}

// checkPushQuote checks the quote that the verifier had, over the challenge that it gave, with the AK that the registrar holds (TPM2B_PUBLIC).
func checkPushQuote(a *keylime.PushAttestation, ak []byte) (*agent.Quote, error) {
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](ak)
	if err != nil {
		return nil, fmt.Errorf("parse the AK's TPM2B_PUBLIC: %w", err)
	}
	if !bytes.Equal(public.Bytes(), a.AK) {
		return nil, errors.New("the verifier checked the quote with another AK than the registrar holds")
	}
	area, err := public.Contents()
	if err != nil {
		return nil, fmt.Errorf("parse the AK's TPM2B_PUBLIC: %w", err)
	}
	quote, err := agent.ParseQuote(a.Quote)
	if err != nil {
		return nil, fmt.Errorf("parse the quote that the verifier had: %w", err)
	}
	if err := quote.Verify(area, a.Challenge); err != nil {
		return nil, fmt.Errorf("the quote is not one of the AK that the registrar holds, over the verifier's challenge: %w", err)
	}
	return quote, nil
}

// impostor stands on the node, has no part of its TPM, and asks the verifier for a session as this agent: the proof of possession, by a key of its own, must
// be refused.
func (v *verification) impostor(ctx context.Context, n Node) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, routingTimeout)
	defer cancel()
	client := v.pushClient(n.Name)
	var offer struct {
		Data struct {
			ID         string `json:"id"`
			Attributes struct {
				Requested []struct {
					Parameters struct {
						Challenge []byte `json:"challenge"`
					} `json:"chosen_parameters"`
				} `json:"authentication_requested"`
			} `json:"attributes"`
		} `json:"data"`
	}
	method := map[string]any{"authentication_class": "pop", "authentication_type": "tpm_pop"}
	status, body, err := client.send(ctx, http.MethodPost, "/v3.0/sessions", document("session", "", map[string]any{
		"agent_id": n.UUID, "authentication_supported": []any{method},
	}))
	if err != nil {
		return "", err
	}
	if status/100 != 2 || json.Unmarshal(body, &offer) != nil || len(offer.Data.Attributes.Requested) == 0 {
		return "", fmt.Errorf("the verifier offers no session, so nothing is proved: status %d, %.200s", status, body)
	}
	message, signature, err := forgedProof(offer.Data.Attributes.Requested[0].Parameters.Challenge)
	if err != nil {
		return "", err
	}
	method["authentication_data"] = map[string]any{"message": message, "signature": signature}
	status, body, err = client.send(ctx, http.MethodPatch, "/v3.0/sessions/"+offer.Data.ID, document("session", offer.Data.ID, map[string]any{
		"agent_id": n.UUID, "authentication_provided": []any{method},
	}))
	if err != nil {
		return "", err
	}
	var verdict struct {
		Data struct {
			Attributes struct {
				Evaluation string `json:"evaluation"`
				Token      string `json:"token"`
			} `json:"attributes"`
		} `json:"data"`
	}
	_ = json.Unmarshal(body, &verdict) // an answer of another form holds no token either
	if a := verdict.Data.Attributes; a.Token != "" || a.Evaluation == "pass" || status/100 == 2 && a.Evaluation != "fail" {
		return "", fmt.Errorf("a proof by another key than the AK was not refused: status %d, evaluation %q", status, a.Evaluation)
	}
	return fmt.Sprintf("a proof by another key than the AK gets no session: status %d", status), nil
}

// noSession sends an attestation for this agent without a session, from its own node: it must be refused.
func (v *verification) noSession(ctx context.Context, n Node) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, routingTimeout)
	defer cancel()
	status, body, err := v.pushClient(n.Name).send(ctx, http.MethodPost, "/v3.0/agents/"+n.UUID+"/attestations", document("attestation", "", map[string]any{"evidence_supported": []any{}}))
	if err != nil {
		return "", err
	}
	if status != http.StatusUnauthorized && status != http.StatusForbidden {
		return "", fmt.Errorf("evidence without a session was not refused for that: status %d, %.200s", status, body)
	}
	return fmt.Sprintf("evidence without a session is refused: status %d", status), nil
}

// forgedProof is what TPM2_Certify gives for a key certified by itself over a challenge (TPM 2.0 Library, Part 3, section 18.2), made with a key that
// no TPM holds.
func forgedProof(challenge []byte) (message, signature []byte, err error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	name := tpm2.TPM2BName{Buffer: append([]byte{0, byte(tpm2.TPMAlgSHA256)}, make([]byte, sha256.Size)...)}
	message = tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCertify, QualifiedSigner: name, ExtraData: tpm2.TPM2BData{Buffer: challenge},
		ClockInfo: tpm2.TPMSClockInfo{Safe: true}, Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, &tpm2.TPMSCertifyInfo{Name: name, QualifiedName: name}),
	})
	digest := sha256.Sum256(message)
	raw, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	if err != nil {
		return nil, nil, fmt.Errorf("sign: %w", err)
	}
	return message, tpm2.Marshal(tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgRSASSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: raw}}),
	}), nil
}

// document is a request of the verifier's version 3 (https://jsonapi.org).
func document(kind, id string, attributes map[string]any) map[string]any {
	data := map[string]any{"type": kind, "attributes": attributes}
	if id != "" {
		data["id"] = id
	}
	return map[string]any{"data": data}
}

// pushClient speaks with the verifier from one of the lab's hosts, as an agent would: without a client certificate.
type pushClient struct {
	base string
	http http.Client
}

func (v *verification) pushClient(from string) *pushClient {
	config := v.target.ClientTLS().Clone()
	config.Certificates, config.GetClientCertificate = nil, nil
	return &pushClient{"https://" + v.plan.Keylime.Verifier.String(), http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: config,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return v.target.Dial(ctx, from, v.plan.Keylime.Verifier)
		},
	}}}
}

// send returns status and body of the answer.
func (c *pushClient) send(ctx context.Context, method, path string, body any) (int, []byte, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return 0, nil, fmt.Errorf("encode the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(data))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/vnd.api+json")
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, fmt.Errorf("ask the verifier: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return 0, nil, fmt.Errorf("read the verifier's answer: %w", err)
	}
	return resp.StatusCode, answer, nil
}
