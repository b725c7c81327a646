package agent

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestStatusCodes pins the answers to odd requests to those of the Rust agent.
func TestStatusCodes(t *testing.T) {
	f := startAgent(t, nil)
	long := strings.Repeat("a", 65)
	for _, c := range []struct {
		method, path string
		status       int
		message      string // part of it
	}{
		{"GET", "/version", 200, "Success"},
		{"POST", "/version", 405, ""},
		{"GET", "/", 400, "Not Implemented"},
		{"DELETE", "/", 405, "not supported"},
		{"GET", "/v2.9/quotes/identity?nonce=a", 400, "API version not supported: v2.9"},
		{"GET", "/v2.0/version", 400, "API version not supported: v2.0"},
		{"GET", "/v99999999999.1/x", 400, ""},
		{"GET", "/v2.6", 400, "Use /agent, /keys, or /quotes"},
		{"POST", "/v2.6/unknown", 400, "Use /keys or /notifications"},
		{"PUT", "/v2.6/unknown", 405, ""},
		{"GET", "/v2.6/quotes/other", 400, "/identity and /integrity"},
		{"POST", "/v2.6/quotes/other", 405, "/quotes"},
		{"POST", "/v2.6/quotes/identity?nonce=a", 405, ""},
		{"GET", "/v2.6/quotes/identity/?nonce=a", 400, "URI not supported"},
		{"GET", "/v2.6/quotes/identity", 400, "missing field `nonce`"},
		{"GET", "/v2.6/quotes/identity?nonce=a&nonce=b", 400, "duplicate field `nonce`"},
		{"GET", "/v2.6/quotes/identity?nonce=a%20b", 400, "strictly alphanumeric"},
		{"GET", "/v2.6/quotes/identity?nonce=%E2%92%B6", 200, "Success"}, // a circled letter: Alphabetic, but no letter
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=0x1&partial=1&ima_ml_entry=0&ima_ml_entry=0", 400, "duplicate field `ima_ml_entry`"},
		{"GET", "/v2.6/quotes/identity?nonce=" + long, 400, "too long"},
		{"GET", "/v2.6/quotes/identity?nonce=" + long[1:], 200, "Success"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=0x1", 400, "missing field `partial`"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&partial=1", 400, "missing field `mask`"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=zz&partial=1", 400, "hex encoded"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=&partial=1", 400, "hex encoded"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=0x100000000&partial=1", 400, "hex encoded"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=-1&partial=1", 400, "strictly alphanumeric"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=0x1&partial=2", 400, "'partial'"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=0x1000000&partial=1", 500, "Unable to retrieve quote"},
		{"GET", "/v2.6/quotes/integrity?nonce=a&mask=ffffff&partial=1", 200, "Success"},
		{"GET", "/v2.6/keys/verify?challenge=", 400, "No challenge"},
		{"GET", "/v2.6/keys/verify?challenge=a", 400, "not yet available"},
		{"GET", "/v2.6/keys/other", 400, "/pubkey and /verify"},
		{"POST", "/v2.6/keys/other", 400, "/ukey and /vkey"},
		{"PUT", "/v2.6/keys/ukey", 405, ""},
		{"GET", "/v2.6/notifications/revocation", 405, ""},
		{"GET", "/v2.1/agent/info", 400, "Not Implemented"},
		{"GET", "/v2.2/agent/info", 200, "Success"},
	} {
		status, e := f.send(t, c.method, c.path, "", nil)
		if status != c.status || !strings.Contains(e.Status, c.message) {
			t.Errorf("%s %s: %d %q, want %d %q", c.method, c.path, status, e.Status, c.status, c.message)
		}
	}
}

func TestBodies(t *testing.T) {
	f := startAgent(t, nil)
	for _, c := range []struct {
		name, path, kind, body string
		message                string
	}{
		{"no content type", "/v2.6/keys/vkey", "", `{}`, "Content type error"},
		{"not JSON", "/v2.6/keys/vkey", "application/json", `{"encrypted_key":`, "Json deserialize error"},
		{"trailing text", "/v2.6/keys/vkey", "application/json", `{} {}`, "Json deserialize error"},
		{"wrong type", "/v2.6/keys/vkey", "application/json", `{"encrypted_key":1}`, "Json deserialize error"},
		{"empty", "/v2.6/keys/vkey", "application/json", `{}`, "missing field"},
		{"not base64", "/v2.6/keys/vkey", "application/json", `{"encrypted_key":"??"}`, "Invalid base64"},
		{"not ours", "/v2.6/keys/vkey", "application/json", `{"encrypted_key":"AAAA"}`, "Failed to decrypt"},
		{"no tag", "/v2.6/keys/ukey", "application/json", `{"encrypted_key":"AAAA"}`, "missing field"},
		{"notice", "/v2.6/notifications/revocation", "application/json", `{"msg":"x"}`, "missing field"},
		{"oversize", "/v2.6/keys/vkey", "application/json", `{"encrypted_key":"` + strings.Repeat("A", maxBody) + `"}`, "larger than allowed"},
	} {
		status, e := f.send(t, "POST", c.path, c.kind, strings.NewReader(c.body))
		if status != 400 || !strings.Contains(e.Status, c.message) {
			t.Errorf("%s: %d %q, want 400 %q", c.name, status, e.Status, c.message)
		}
	}
	// Without a length beforehand the limit holds as well.
	chunked := io.MultiReader(strings.NewReader(strings.Repeat(" ", maxBody+10)))
	status, e := f.send(t, "POST", "/v2.6/keys/vkey", "application/json", chunked)
	if status != 400 || !strings.Contains(e.Status, "exceeded limit") {
		t.Errorf("chunked oversize: %d %q", status, e.Status)
	}
}

func TestVersionsAndAlgorithmNames(t *testing.T) {
	f := startAgent(t, nil)
	_, e := f.get(t, "/version")
	v := decode[struct {
		Supported string   `json:"supported_version"`
		All       []string `json:"supported_versions"`
	}](t, e.Results)
	if v.Supported != "2.6" || strings.Join(v.All, " ") != "2.1 2.2 2.3 2.4 2.5 2.6" {
		t.Errorf("versions %+v", v)
	}
	for version, enc := range map[string]string{"2.1": "rsa", "2.4": "rsa", "2.5": "rsa2048", "2.6": "rsa2048"} {
		results, _ := f.quoteOf(t, "/v"+version+"/quotes/identity?nonce=x", "x")
		if results.EncAlg != enc {
			t.Errorf("API %s: enc_alg %q, want %q", version, results.EncAlg, enc)
		}
		if results.Pubkey == nil || *results.Pubkey != f.PayloadPublicPEM() {
			t.Errorf("API %s: identity quote without the public key", version)
		}
	}
	results, _ := f.quoteOf(t, "/v2.6/quotes/integrity?nonce=x&mask=0x0&partial=1", "x")
	if results.Pubkey != nil {
		t.Error("partial=1 has a public key")
	}
}

// An agent for services that do not negotiate serves and names no version that those do not know.
func TestFewerAPIVersions(t *testing.T) {
	f := startAgent(t, func(c *Config) { c.APIVersions = []string{"2.1", "2.2", "2.3"} })
	_, e := f.get(t, "/version")
	v := decode[struct {
		Supported string   `json:"supported_version"`
		All       []string `json:"supported_versions"`
	}](t, e.Results)
	if v.Supported != "2.3" || strings.Join(v.All, " ") != "2.1 2.2 2.3" {
		t.Errorf("versions %+v", v)
	}
	for path, want := range map[string]string{
		"/v2.4/quotes/identity?nonce=x": "API version not supported: v2.4",
		"/v2.6/agent/info":              "API version not supported: v2.6",
		"/":                             "Use /v2.1, /v2.2, /v2.3 or /version",
	} {
		if status, e := f.send(t, "GET", path, "", nil); status != 400 || !strings.Contains(e.Status, want) {
			t.Errorf("GET %s: %d %q, want 400 %q", path, status, e.Status, want)
		}
	}
	if results, _ := f.quoteOf(t, "/v2.3/quotes/identity?nonce=x", "x"); results.EncAlg != "rsa" {
		t.Errorf("enc_alg %q, want rsa", results.EncAlg)
	}
	if got, err := chooseVersion([]string{"2.1", "2.2", "2.3"}, "2.6", []string{"2.0", "2.2", "2.3", "2.6"}); err != nil || got != "2.3" {
		t.Errorf("with a registrar that speaks 2.6 the version is %q, %v; want 2.3", got, err)
	}
}

func TestAccessIsCounted(t *testing.T) {
	f := startAgent(t, nil)
	f.quoteOf(t, "/v2.6/quotes/identity?nonce=first", "first")
	f.get(t, "/v2.6/quotes/identity?nonce=bad!")
	f.get(t, "/nowhere")
	stats := f.Stats()
	for endpoint, want := range map[Endpoint]uint64{
		{"/quotes/identity", 200}: 1,
		{"/quotes/identity", 400}: 1,
		{"other", 400}:            1,
	} {
		if got := stats.Requests[endpoint]; got != want {
			t.Errorf("%v: counted %d, want %d", endpoint, got, want)
		}
	}
	if stats.Quotes != 1 || stats.LastQuote.IsZero() {
		t.Errorf("stats %+v", stats)
	}
	if n := f.ServedNonce("bad!"); n != 0 {
		t.Errorf("a refused nonce counts as served %d times", n)
	}
	a := <-f.accesses
	if a.Method != "GET" || a.Path != "/v2.6/quotes/identity" || a.Nonce != "first" || a.Status != http.StatusOK ||
		a.ServerName != "agent.agents.lab.test" || a.Client != "verifier" || a.Remote == "" || a.Duration <= 0 {
		t.Errorf("access %+v", a)
	}
}

func TestServedNonceIsBounded(t *testing.T) {
	a := &Agent{}
	for i := range rememberedNonces + 10 {
		a.book.quote(fmt.Sprint(i), time.Now())
	}
	a.book.quote(fmt.Sprint(rememberedNonces), time.Now())
	for nonce, want := range map[int]int{10: 0, 11: 1, rememberedNonces: 2, rememberedNonces + 9: 1} {
		if got := a.ServedNonce(fmt.Sprint(nonce)); got != want {
			t.Errorf("nonce %d: served %d, want %d", nonce, got, want)
		}
	}
	if n := len(a.book.nonces); n != rememberedNonces-1 { // one of them twice
		t.Errorf("%d nonces remembered", n)
	}
}

func TestRevocationIsKept(t *testing.T) {
	f := startAgent(t, nil)
	for i := range maxRevocations + 2 {
		status, e := f.send(t, "POST", "/v2.6/notifications/revocation", "application/json",
			strings.NewReader(fmt.Sprintf(`{"msg":"notice %d","signature":"c2ln"}`, i)))
		if status != 200 || string(e.Results) != "null" {
			t.Fatalf("%d %s", status, e.Results)
		}
	}
	got := f.Revocations()
	if len(got) != maxRevocations || got[0].Message != "notice 2" || got[0].Signature != "c2ln" {
		t.Errorf("revocations %+v", got)
	}
}
