package agent

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
)

// tenantKeys splits K as Keylime's tenant does: U goes to the agent now, V
// through the verifier later.
type tenantKeys struct {
	k, u, v []byte
}

func newTenantKeys() tenantKeys {
	key := tenantKeys{make([]byte, 32), make([]byte, 32), make([]byte, 32)}
	_, _ = rand.Read(key.k)
	_, _ = rand.Read(key.v)
	for i := range key.k {
		key.u[i] = key.k[i] ^ key.v[i]
	}
	return key
}

func (key tenantKeys) seal(t testing.TB, payload []byte) string {
	t.Helper()
	block, err := aes.NewCipher(key.k)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, 16)
	if err != nil {
		t.Fatal(err)
	}
	iv := make([]byte, 16)
	_, _ = rand.Read(iv)
	return base64.StdEncoding.EncodeToString(gcm.Seal(iv, iv, payload, nil))
}

func (f *fixture) encrypt(t testing.TB, half []byte) string {
	t.Helper()
	out, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, &f.payload.PublicKey, half, nil)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(out)
}

func (f *fixture) post(t testing.TB, path string, fields map[string]string) (int, envelopeText) {
	t.Helper()
	body, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return f.send(t, "POST", path, "application/json", bytes.NewReader(body))
}

func (f *fixture) postU(t testing.TB, key tenantKeys, payload string) {
	t.Helper()
	fields := map[string]string{
		"encrypted_key": f.encrypt(t, key.u),
		"auth_tag":      hex.EncodeToString(hmacSHA384(key.k, f.UUID())),
	}
	if payload != "" {
		fields["payload"] = payload
	}
	if status, e := f.post(t, "/v2.6/keys/ukey", fields); status != 200 || string(e.Results) != "null" {
		t.Fatalf("ukey: %d %s %s", status, e.Status, e.Results)
	}
}

func (f *fixture) postV(t testing.TB, key tenantKeys) {
	t.Helper()
	if status, e := f.post(t, "/v2.6/keys/vkey", map[string]string{"encrypted_key": f.encrypt(t, key.v)}); status != 200 {
		t.Fatalf("vkey: %d %s", status, e.Status)
	}
}

func TestPayload(t *testing.T) {
	var got []string
	f := startAgent(t, func(cfg *Config) {
		cfg.OnPayload = func(payload []byte) { got = append(got, string(payload)) }
	})
	stale, first, second := newTenantKeys(), newTenantKeys(), newTenantKeys()

	f.postV(t, stale) // from an enrolment that was given up
	f.postU(t, first, first.seal(t, []byte("secret one")))
	if len(got) != 0 {
		t.Fatal("a payload was delivered with a V that is not its own")
	}
	f.postV(t, first)
	f.postV(t, second) // the other order
	f.postU(t, second, second.seal(t, []byte("secret two")))
	if want := "secret one,secret two"; strings.Join(got, ",") != want {
		t.Errorf("payloads %q, want %q", got, want)
	}

	status, e := f.get(t, "/v2.6/keys/verify?challenge=ask")
	if status != 200 {
		t.Fatalf("verify: %d %s", status, e.Status)
	}
	mac := decode[map[string]string](t, e.Results)["hmac"]
	if mac != hex.EncodeToString(hmacSHA384(second.k, "ask")) {
		t.Error("the answer to the challenge is not made with the last K")
	}
}

func TestPayloadThatCannotBeDecrypted(t *testing.T) {
	f := startAgent(t, func(cfg *Config) {
		cfg.OnPayload = func([]byte) { t.Error("delivered") }
	})
	for _, payload := range []string{newTenantKeys().seal(t, []byte("under another key")), "c2hvcnQ=", ""} {
		key := newTenantKeys()
		f.postU(t, key, payload)
		f.postV(t, key) // as from the Rust agent, the peer gets 200 all the same
	}
}

func TestHalvesAreBounded(t *testing.T) {
	var h keyHalves
	for range 10 * maxHalves {
		h.addU(uHalf{key: []byte("0123456789abcdef"), tag: []byte("none")}, "id")
		h.addV([]byte("0123456789abcdef"), "id")
	}
	if len(h.us) != maxHalves || len(h.vs) != maxHalves {
		t.Errorf("%d and %d halves remembered", len(h.us), len(h.vs))
	}
}

func TestSecretsAreNotLogged(t *testing.T) {
	var out lockedBuffer
	f := startAgent(t, func(cfg *Config) {
		cfg.Logger = out.logger()
		cfg.OnPayload = func([]byte) {}
	})
	key := newTenantKeys()
	f.postU(t, key, key.seal(t, []byte("topsecret")))
	f.postV(t, key)
	text := out.String()
	if !strings.Contains(text, "payload key is complete") {
		t.Fatalf("nothing was logged: %q", text)
	}
	for _, secret := range []string{"topsecret", base64.StdEncoding.EncodeToString(key.k), hex.EncodeToString(key.k), strings.Trim(strconv.Quote(string(key.k)), `"`)} {
		if strings.Contains(text, secret) {
			t.Errorf("the log contains %q", secret)
		}
	}
}
