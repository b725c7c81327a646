package push

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"
)

// session is what the verifier granted for a proof of possession. It belongs to the
// goroutine of Run.
type session struct {
	token secret
	// lifetime is how long the token holds after it was granted, and again after each
	// attestation that passed (Keylime's extend_token_on_attestation); 0: unknown.
	lifetime time.Duration
	since    time.Time // granted, or evidence last accepted
}

// expired says whether the token holds no longer even if the last evidence passed.
// It may end earlier; then the verifier answers 401.
func (s *session) expired(now time.Time) bool {
	return s.lifetime > 0 && now.Sub(s.since) >= s.lifetime
}

// sessionID is what may be put in a path. Keylime's are UUIDs.
var sessionID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// sessionPath is where sessions are made.
const sessionPath = "/v3.0/sessions"

// authenticate gets a token for a proof that this TPM holds the AK.
func (r *round) authenticate(ctx context.Context) (*session, error) {
	id, challenge, err := r.requestChallenge(ctx)
	if err != nil {
		return nil, err
	}
	message, signature, err := r.tpm.Certify(ctx, challenge)
	if err != nil {
		return nil, fmt.Errorf("proving the AK: %w", err)
	}
	method := authMethod{classPoP, typeTPMPoP}
	body := newDocument("session", id, proofRequest{
		AgentID:  r.uuid,
		Provided: []proof{{method, proofData{message, signature}}},
	})
	answer, err := r.do(ctx, StepProof, http.MethodPatch, sessionPath+"/"+id, "", body, http.StatusOK)
	if err != nil {
		return nil, err
	}
	d, err := parseAnswer[sessionResult](StepProof, answer, "session")
	if err != nil {
		return nil, err
	}
	result := &d.Data.Attributes
	if result.Evaluation != "pass" {
		return nil, fmt.Errorf("%s: evaluation %q: %w", StepProof, shorten(result.Evaluation), ErrNotEnrolled)
	}
	if !usableToken(result.Token) {
		return nil, fmt.Errorf("%s: %w: no token in it that could be sent", StepProof, ErrVerifierAnswer)
	}
	s := &session{token: result.Token, since: time.Now()}
	if !result.Received.IsZero() && result.Expires.After(result.Received) {
		s.lifetime = result.Expires.Sub(result.Received)
	}
	return s, nil
}

// requestChallenge opens a session and returns its name and challenge.
func (r *round) requestChallenge(ctx context.Context) (id string, challenge []byte, err error) {
	body := newDocument("session", "", sessionRequest{AgentID: r.uuid, Supported: []authMethod{{classPoP, typeTPMPoP}}})
	answer, err := r.do(ctx, StepSession, http.MethodPost, sessionPath, "", body, http.StatusOK)
	if err != nil {
		return "", nil, err
	}
	d, err := parseAnswer[sessionOffer](StepSession, answer, "session")
	if err != nil {
		return "", nil, err
	}
	if id = d.Data.ID; !sessionID.MatchString(id) {
		return "", nil, fmt.Errorf("%s: %w: session %q", StepSession, ErrVerifierAnswer, shorten(id))
	}
	for _, method := range d.Data.Attributes.Requested {
		if method.authMethod == (authMethod{classPoP, typeTPMPoP}) {
			if challenge, err = decodeChallenge(method.Parameters.Challenge); err != nil {
				return "", nil, fmt.Errorf("%s: %w", StepSession, err)
			}
			return id, challenge, nil
		}
	}
	return "", nil, fmt.Errorf("%s: %w: it wants no proof of possession", StepSession, ErrVerifierAnswer)
}

// maxChallenge is what TPM2B_DATA holds at least: a SHA-512 digest (Part 2, section
// 10.4.3). Keylime's are 16 bytes.
const maxChallenge = 64

func decodeChallenge(text string) ([]byte, error) {
	challenge, err := base64.StdEncoding.DecodeString(text)
	if err == nil && (len(challenge) == 0 || len(challenge) > maxChallenge) {
		err = fmt.Errorf("%d bytes, want 1 to %d", len(challenge), maxChallenge)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: challenge: %w", ErrVerifierAnswer, err)
	}
	return challenge, nil
}

// usableToken says whether a token can be sent in a header: visible ASCII (RFC 6750,
// section 2.1, has fewer).
func usableToken(token secret) bool {
	for _, c := range []byte(token) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(token) > 0 && len(token) <= 4096
}

// authorised sends a request with the token, after getting one if there is none. A
// token that the verifier no longer takes (401) is replaced once.
func (r *round) authorised(ctx context.Context, step, method, path string, body any, want int) (*answer, error) {
	for renewed := false; ; renewed = true {
		if r.session == nil || r.session.expired(time.Now()) {
			s, err := r.authenticate(ctx)
			if err != nil {
				return nil, fmt.Errorf("authenticating for %s: %w", step, err)
			}
			r.session = s
		}
		answer, err := r.do(ctx, step, method, path, r.session.token, body, want)
		var refused *VerifierError
		if !errors.As(err, &refused) {
			return answer, err
		}
		switch refused.Status {
		case http.StatusUnauthorized:
			r.session = nil
			if !renewed {
				continue
			}
		case http.StatusForbidden:
			// Keylime says so also of a token that expired while it was looked at.
			r.session = nil
		}
		return nil, err
	}
}
