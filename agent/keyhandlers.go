package agent

import (
	"context"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"

	"github.com/google/go-tpm/tpm2/transport"
)

// pubkey answers GET /keys/pubkey.
func (a *Agent) pubkey(*request) answer {
	return success(struct {
		Pubkey string `json:"pubkey"`
	}{a.payloadPEM})
}

// uKey takes the tenant's half of the payload key and the encrypted payload.
func (a *Agent) uKey(r *request) answer {
	body, problem := readTexts(r, []string{"auth_tag", "encrypted_key"}, "payload")
	if problem != nil {
		return *problem
	}
	key, problem := a.decryptHalf(body["encrypted_key"])
	if problem != nil {
		return *problem
	}
	tag, err := hex.DecodeString(body["auth_tag"])
	if err != nil {
		return badRequest("Invalid hex encoding in auth_tag: %v", err)
	}
	if len(tag) != sha512.Size384 {
		return badRequest("auth tag length %d does not correspond to valid SHA-384 HMAC", len(tag))
	}
	half := uHalf{key: key, tag: tag}
	if payload, given := body["payload"]; given {
		if half.payload, err = base64.StdEncoding.DecodeString(payload); err != nil {
			return badRequest("Invalid base64 encoding in payload: %v", err)
		}
	}
	a.deliver(a.halves.addU(half, a.uuid))
	return success(nil)
}

// vKey takes the verifier's half of the payload key.
func (a *Agent) vKey(r *request) answer {
	body, problem := readTexts(r, []string{"encrypted_key"})
	if problem != nil {
		return *problem
	}
	key, problem := a.decryptHalf(body["encrypted_key"])
	if problem != nil {
		return *problem
	}
	a.deliver(a.halves.addV(key, a.uuid))
	return success(nil)
}

// decryptHalf opens a key half: RSA-OAEP with SHA-1 (RFC 8017) to the payload
// key, as long as an AES-128 or AES-256 key. It returns the half or what to answer.
func (a *Agent) decryptHalf(text string) (half []byte, problem *answer) {
	refuse := func(format string, args ...any) ([]byte, *answer) {
		reply := badRequest(format, args...)
		return nil, &reply
	}
	encrypted, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return refuse("Invalid base64 encoding in encrypted_key: %v", err)
	}
	half, err = rsa.DecryptOAEP(sha1.New(), nil, a.payload, encrypted, nil)
	if err != nil {
		return refuse("Failed to decrypt encrypted_key: %v", err)
	}
	if len(half) != 16 && len(half) != 32 {
		return refuse("Invalid decrypted key: invalid AES key size: %d", len(half))
	}
	return half, nil
}

// deliver decrypts the payload of a completed pair of halves and hands it over.
// The peers learn nothing of a failure, as from the Rust agent.
func (a *Agent) deliver(key, payload []byte) {
	if key == nil {
		return
	}
	a.log.Info("payload key is complete", "payload", payload != nil)
	if payload == nil {
		return
	}
	plain, err := decryptPayload(key, payload)
	if err != nil {
		a.log.Warn("decrypting the payload", "error", err)
		return
	}
	if a.cfg.OnPayload != nil {
		a.cfg.OnPayload(plain)
	}
	if a.cfg.SecureDir != "" {
		a.payloads.add(func(ctx context.Context) { a.runPayload(ctx, key, plain) })
	}
}

// verifyKey proves that the agent has the payload key (GET /keys/verify).
func (a *Agent) verifyKey(r *request) answer {
	query, problem := parameters(r, "challenge")
	if problem != nil {
		return *problem
	}
	challenge := query.Get("challenge")
	if challenge == "" {
		return badRequest("No challenge provided.")
	}
	if !alphanumeric(challenge) {
		return badRequest("Parameters should be strictly alphanumeric: %s", challenge)
	}
	key := a.halves.current()
	if key == nil {
		return badRequest("Bootstrap key not yet available.")
	}
	return success(struct {
		HMAC string `json:"hmac"`
	}{hex.EncodeToString(hmacSHA384(key, challenge))})
}

// akHandle is where the AK is in the TPM; 0 when it is not loaded.
func (a *Agent) akHandle(r *request) uint32 {
	var handle uint32
	err := a.device.use(r.Context(), func(t transport.TPM) error {
		if err := a.loadAK(t); err != nil {
			return err
		}
		handle = uint32(a.device.ak.handle)
		return nil
	})
	if err != nil {
		a.log.Warn("loading the AK", "error", err)
	}
	return handle
}
