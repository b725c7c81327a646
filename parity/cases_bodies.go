package parity

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
)

const (
	ukeyPath       = "/v2.6/keys/ukey"
	vkeyPath       = "/v2.6/keys/vkey"
	revocationPath = "/v2.6/notifications/revocation"
)

// bodyLimit is what the Rust agent's web framework takes of a JSON body, in bytes (actix-web's JsonConfig).
const bodyLimit = 2 << 20

// bodyCases are about bodies as such, for each endpoint that takes one. %s in a text stands for a good key half.
func bodyCases() []Case {
	var cases []Case
	for _, e := range []struct{ name, path, good string }{
		{"ukey", ukeyPath, `{"auth_tag":"` + strings.Repeat("0", 96) + `","encrypted_key":"%s"}`},
		{"vkey", vkeyPath, `{"encrypted_key":"%s"}`},
		{"revocation", revocationPath, `{"msg":"%s","signature":""}`},
	} {
		add := func(name string, body func(good string) string, fields ...string) {
			cases = append(cases, withHalf("bodies", e.name+": "+name, 32, func(half string) request {
				return post(e.path, body(strings.Replace(e.good, "%s", half, 1)), fields...)
			}))
		}
		fixed := func(text string) func(string) string { return func(string) string { return text } }
		same := func(good string) string { return good }
		add("empty", fixed(""))
		add("empty object", fixed("{}"))
		for _, text := range []string{"null", "[]", "1", `"text"`, "{", `{"a":}`, "{'a':1}", `{"a":1,}`, "\xff\xfe", "{} {}"} {
			add(fmt.Sprintf("%q", text), fixed(text))
		}
		add("good, then more", func(g string) string { return g + "x" })
		add("good, then white space", func(g string) string { return g + " \r\n\t" })
		add("byte order mark", func(g string) string { return "\ufeff" + g })
		add("unknown field", func(g string) string { return strings.Replace(g, "{", `{"x":[1,{"y":null}],`, 1) })
		add("unknown field, 200 levels deep", func(g string) string {
			return strings.Replace(g, "{", `{"x":`+strings.Repeat("[", 200)+strings.Repeat("]", 200)+",", 1)
		})
		add("a field twice", func(g string) string { return g[:len(g)-1] + "," + g[1:] })
		add("field names in capitals", func(g string) string {
			return strings.NewReplacer("auth_tag", "AUTH_TAG", "encrypted_key", "ENCRYPTED_KEY", "msg", "MSG", "signature", "SIGNATURE").Replace(g)
		})
		add("escaped field names", func(g string) string { return strings.NewReplacer(`"e`, `"\u0065`, `"m`, `"\u006d`).Replace(g) })
		add("numbers for texts", func(g string) string {
			return strings.NewReplacer(`auth_tag":"`, `auth_tag":1,"x":"`, `encrypted_key":"`, `encrypted_key":1,"x":"`, `msg":"`, `msg":1,"x":"`).Replace(g)
		})
		add("null for texts", func(g string) string {
			return strings.NewReplacer(`encrypted_key":"`, `encrypted_key":null,"x":"`, `msg":"`, `msg":null,"x":"`).Replace(g)
		})
		add("half a surrogate pair", func(g string) string { return strings.Replace(g, "{", `{"x":"\ud800",`, 1) })
		add("a text that is not UTF-8", func(g string) string { return strings.Replace(g, "{", "{\"x\":\"\xff\",", 1) })
		add("a raw newline in a text", func(g string) string { return strings.Replace(g, "{", "{\"x\":\"\n\",", 1) })
		add("a huge number", func(g string) string { return strings.Replace(g, "{", `{"x":1e999,`, 1) })
		for _, kind := range []string{"", "text/plain", "application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json", "text/json",
			"application/x-www-form-urlencoded",
			"application/json, text/plain", "application/jsonx", "json", "application/json; charset"} {
			if kind == "" {
				add("no content type", same, "Accept: */*")
				continue
			}
			add("content type "+kind, same, "Content-Type: "+kind)
		}
		add("of 1 MiB", func(g string) string { return g + strings.Repeat(" ", 1<<20) })
		add("as large as allowed", func(g string) string { return g + strings.Repeat(" ", bodyLimit-len(g)) })
		add("a byte too large", func(g string) string { return g + strings.Repeat(" ", bodyLimit-len(g)+1) })
		add("of 8 MiB", func(g string) string { return g + strings.Repeat(" ", 8<<20) })
		cases = append(cases,
			withHalf("bodies", e.name+": chunked", 32, func(half string) request {
				return request{method: http.MethodPost, path: e.path, fields: []string{jsonType}, body: []byte(strings.Replace(e.good, "%s", half, 1)), chunked: true}
			}),
			withHalf("bodies", e.name+": chunked, of 8 MiB", 32, func(half string) request {
				return request{method: http.MethodPost, path: e.path, fields: []string{jsonType}, body: bytes.Repeat([]byte(" "), 8<<20), chunked: true}
			}),
			single("bodies", e.name+": no length", request{method: http.MethodPost, path: e.path, fields: []string{jsonType}}),
			single("bodies", e.name+": compressed", post(e.path, "\x1f\x8b\x08\x00", jsonType, "Content-Encoding: gzip")))
	}
	return cases
}

// withHalf is a case whose request has in it a key half of that many random bytes, encrypted to the agent's payload key.
func withHalf(group, name string, size int, make func(half string) request) Case {
	return Case{Group: group, Name: name, Do: func(ctx context.Context, t *Target) Observation {
		key, err := t.payloadKey(ctx)
		if err != nil {
			return Observation{End: "error: " + err.Error()}
		}
		half, err := encryptHalf(key, randomBytes(size))
		if err != nil {
			return Observation{End: "error: " + err.Error()}
		}
		o, _ := t.exchange(ctx, make(half))
		return o
	}}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return b
}

// encryptHalf does what Keylime's tenant and verifier do: RSA-OAEP with SHA-1 (keylime/crypto.py, rsa_encrypt), and base64.
func encryptHalf(key *rsa.PublicKey, half []byte) (string, error) {
	encrypted, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, key, half, nil)
	if err != nil {
		return "", fmt.Errorf("encrypt a key half: %w", err)
	}
	return base64.StdEncoding.EncodeToString(encrypted), nil
}

// keyCases are about what is in key halves. They come after all that need an agent without a payload key.
func keyCases() []Case {
	tag := strings.Repeat("0a", 48)
	ukey := func(tag, more string) func(string) request {
		return func(half string) request {
			return post(ukeyPath, `{"auth_tag":`+tag+`,"encrypted_key":"`+half+`"`+more+`}`)
		}
	}
	var cases []Case
	for _, size := range []int{0, 1, 15, 16, 24, 31, 32, 33, 64} {
		cases = append(cases,
			withHalf("key halves", fmt.Sprintf("U of %d bytes", size), size, ukey(`"`+tag+`"`, "")),
			withHalf("key halves", fmt.Sprintf("V of %d bytes", size), size, func(half string) request { return post(vkeyPath, `{"encrypted_key":"`+half+`"}`) }))
	}
	for _, x := range []struct{ name, value string }{
		{"empty", ""}, {"not base64", "?!"}, {"URL-safe base64", strings.Repeat("_-", 171) + "Aw=="}, {"base64 without padding",
			base64.RawStdEncoding.EncodeToString(make([]byte, 256))},
		{"base64 with a newline", `AAAA\nAAAA`}, {"base64 with a space", "AAAA AAAA"}, {"base64 with bits left over", "AB=="}, {"too much padding", "AAA=="},
		{"1 byte", base64.StdEncoding.EncodeToString(make([]byte, 1))},
		{"255 bytes", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 255))}, {"256 zero bytes", base64.StdEncoding.EncodeToString(make([]byte, 256))},
		{"256 bytes that are no ciphertext", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 256))},
		{"256 bytes above the modulus", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{0xff}, 256))},
		{"257 bytes", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 257))}, {"100 kB", base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1},
			100_000))},
	} {
		cases = append(cases,
			single("key halves", "encrypted U: "+x.name, post(ukeyPath, `{"auth_tag":"`+tag+`","encrypted_key":"`+x.value+`"}`)),
			single("key halves", "encrypted V: "+x.name, post(vkeyPath, `{"encrypted_key":"`+x.value+`"}`)))
	}
	for _, x := range []struct{ name, value string }{
		{"missing", ""}, {"null", "null"}, {"empty", `""`}, {"of 47 bytes", `"` + strings.Repeat("0a", 47) + `"`}, {"of 49 bytes", `"` + strings.Repeat("0a",
			49) + `"`}, {"of 32 bytes", `"` + strings.Repeat("0a", 32) + `"`},
		{"odd", `"` + tag[1:] + `"`}, {"not hexadecimal", `"` + strings.Repeat("zz", 48) + `"`}, {"in capitals", `"` + strings.ToUpper(tag) + `"`}, {"a number",
			"1"},
	} {
		c := withHalf("key halves", "auth_tag "+x.name, 32, ukey(x.value, ""))
		if x.value == "" {
			c = withHalf("key halves", "auth_tag "+x.name, 32, func(half string) request { return post(ukeyPath, `{"encrypted_key":"`+half+`"}`) })
		}
		cases = append(cases, c)
	}
	for _, x := range []string{"null", `""`, "1", `"?!"`, `"AAAA"`, `"AAA"`, `{"a":1}`} {
		cases = append(cases, withHalf("key halves", "payload "+x, 32, ukey(`"`+tag+`"`, `,"payload":`+x)))
	}
	return append(cases,
		Case{Group: "key halves", Name: "U and V with the auth_tag of another agent; verify", Do: func(ctx context.Context,
			t *Target) Observation {
			return pair(ctx, t, "another agent", true)
		}},
		Case{Group: "key halves", Name: "U and V that belong together; verify", Do: func(ctx context.Context, t *Target) Observation {
			return pair(ctx, t,
				t.UUID, true)
		}},
		Case{Group: "key halves", Name: "V and then U that belong together; verify", Do: func(ctx context.Context, t *Target) Observation {
			return pair(ctx, t,
				t.UUID, false)
		}},
		get("key halves", "verify with a challenge of 10 000 characters", "/v2.6/keys/verify?challenge="+strings.Repeat("a", 10000)),
		get("key halves", "verify with a bad challenge", "/v2.6/keys/verify?challenge=a.b"),
	)
}

// pair delivers a key in two halves, tagged for an agent's UUID, and asks the agent to prove that it has it. When the proof is right the
// observation ends so.
func pair(ctx context.Context, t *Target, uuid string, uFirst bool) Observation {
	key, err := t.payloadKey(ctx)
	if err != nil {
		return Observation{End: "error: " + err.Error()}
	}
	u, v := randomBytes(32), randomBytes(32)
	k := make([]byte, 32)
	for i := range k {
		k[i] = u[i] ^ v[i]
	}
	cu, errU := encryptHalf(key, u)
	cv, errV := encryptHalf(key, v)
	if errU != nil || errV != nil {
		return Observation{End: fmt.Sprint("error: ", errU, errV)}
	}
	requests := []request{
		post(ukeyPath, `{"auth_tag":"`+authTag(k, uuid)+`","encrypted_key":"`+cu+`"}`), post(vkeyPath, `{"encrypted_key":"`+cv+`"}`)}
	if !uFirst {
		requests[0], requests[1] = requests[1], requests[0]
	}
	requests = append(requests, request{method: http.MethodGet, path: "/v2.6/keys/verify?challenge=abc"})
	var all Observation
	var last []byte
	for _, r := range requests {
		var o Observation
		o, last = t.exchange(ctx, r)
		all.Answers = append(all.Answers, o.Answers...)
		if o.End != "" {
			all.End = o.End
			return all
		}
	}
	if strings.Contains(string(last), authTag(k, "abc")) {
		all.End = "and the proof is right"
	}
	return all
}

// authTag is hex(HMAC-SHA384(key, text)), as in keylime/crypto.py, do_hmac.
func authTag(key []byte, text string) string {
	mac := hmac.New(sha512.New384, key)
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

// revocationCases are notices that are well-formed JSON, but no notices.
func revocationCases() []Case {
	var cases []Case
	for _, x := range []struct{ name, body string }{
		{"signature missing", `{"msg":"{}"}`}, {"msg missing", `{"signature":"AAAA"}`}, {"msg is an object", `{"msg":{},"signature":"AAAA"}`},
		{"signature is not base64", `{"msg":"{}","signature":"?!"}`}, {"signature of nobody", `{"msg":"{\"type\":\"revocation\"}","signature":"AAAA"}`},
		{"msg is no JSON", `{"msg":"hello","signature":"AAAA"}`},
		{"empty texts", `{"msg":"","signature":""}`}, {"msg of 1 MB", `{"msg":"` + strings.Repeat("a", 1_000_000) + `","signature":"AAAA"}`},
	} {
		cases = append(cases, single("revocation", x.name, post(revocationPath, x.body)))
	}
	return cases
}
