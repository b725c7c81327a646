package agent

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha512"
	"errors"
	"fmt"
	"sync"
)

// maxHalves bounds how many unmatched key halves an agent remembers.
const maxHalves = 16

// gcmBlock is the length of IV and tag of an encrypted payload (Keylime uses a
// 16-byte IV, not the usual 12).
const gcmBlock = 16

// keyHalves collects the tenant's U and the verifier's V until two of them give
// the payload key K = U xor V, recognised by its HMAC over the agent's UUID.
type keyHalves struct {
	mu  sync.Mutex
	us  []uHalf
	vs  [][]byte
	key []byte // K, once known
}

type uHalf struct {
	key     []byte
	tag     []byte // HMAC-SHA384(K, uuid)
	payload []byte // encrypted; nil if there is none
}

// addU and addV return, when the new half completes a pair, K and the encrypted
// payload that came with the U.
func (h *keyHalves) addU(u uHalf, uuid string) (key, payload []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.us = appendBounded(h.us, u)
	return h.combine(uuid)
}

func (h *keyHalves) addV(v []byte, uuid string) (key, payload []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vs = appendBounded(h.vs, v)
	return h.combine(uuid)
}

func appendBounded[T any](list []T, item T) []T {
	if len(list) >= maxHalves {
		list = list[1:]
	}
	return append(list, item)
}

func (h *keyHalves) combine(uuid string) (key, payload []byte) {
	for _, u := range h.us {
		for _, v := range h.vs {
			if len(u.key) != len(v) {
				continue
			}
			k := make([]byte, len(v))
			for i := range k {
				k[i] = u.key[i] ^ v[i]
			}
			if hmac.Equal(hmacSHA384(k, uuid), u.tag) {
				h.us, h.vs, h.key = nil, nil, k
				return k, u.payload
			}
		}
	}
	return nil, nil
}

// current returns K, nil while it is unknown.
func (h *keyHalves) current() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.key
}

func hmacSHA384(key []byte, message string) []byte {
	mac := hmac.New(sha512.New384, key)
	mac.Write([]byte(message))
	return mac.Sum(nil)
}

// decryptPayload opens iv(16) | AES-GCM ciphertext | tag(16).
func decryptPayload(key, data []byte) ([]byte, error) {
	if len(data) < 2*gcmBlock {
		return nil, fmt.Errorf("encrypted payload of %d bytes, want at least %d", len(data), 2*gcmBlock)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("payload key: %w", err)
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, gcmBlock)
	if err != nil {
		return nil, fmt.Errorf("payload cipher: %w", err)
	}
	plain, err := gcm.Open(nil, data[:gcmBlock], data[gcmBlock:], nil)
	if err != nil {
		return nil, errors.New("the payload does not belong to its key or was damaged")
	}
	return plain, nil
}
