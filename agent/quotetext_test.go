package agent

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// madeQuote is one real quote, of PCRs 0-8 and 16, for all tests of its form.
func madeQuote(t testing.TB) (text string, ak tpm2.TPMTPublic) {
	t.Helper()
	a := newAgent(t, baseConfig(startTPM(t), newCA(t, "cv_ca")))
	text, err := a.quote(t.Context(), []byte("nonce"), 0x1ff)
	if err != nil {
		t.Fatal(err)
	}
	return text, a.AKPublic()
}

func TestQuoteTextRoundTrip(t *testing.T) {
	text, _ := madeQuote(t)
	q, err := ParseQuote(text)
	if err != nil {
		t.Fatal(err)
	}
	if q.String() != text {
		t.Error("encoding the decoded quote gives another text")
	}
}

// TestPCRBlobLayout is an independent reading of the format, the way Keylime's
// verifier goes through it.
func TestPCRBlobLayout(t *testing.T) {
	text, _ := madeQuote(t)
	blob, err := base64.StdEncoding.DecodeString(text[strings.LastIndex(text, ":")+1:])
	if err != nil {
		t.Fatal(err)
	}
	if len(blob) != 4+16*8+4+2*532 {
		t.Fatalf("%d bytes for ten PCRs", len(blob))
	}
	if binary.LittleEndian.Uint32(blob) != 1 || binary.LittleEndian.Uint16(blob[4:]) != 0x000b || blob[6] != 3 ||
		!bytes.Equal(blob[7:12], []byte{0xff, 0x01, 0x01, 0, 0}) || !bytes.Equal(blob[12:132], make([]byte, 120)) {
		t.Errorf("selection % x", blob[:132])
	}
	if binary.LittleEndian.Uint32(blob[132:]) != 2 {
		t.Errorf("lists % x", blob[132:136])
	}
	first, second := blob[136:668], blob[668:]
	if binary.LittleEndian.Uint32(first) != 8 || binary.LittleEndian.Uint32(second) != 2 {
		t.Errorf("list lengths % x, % x", first[:4], second[:4])
	}
	if binary.LittleEndian.Uint16(second[4+66:]) != 32 || binary.LittleEndian.Uint16(second[4+2*66:]) != 0 {
		t.Error("the second list should hold two digests of 32 bytes")
	}
}

func TestVerifyFindsForgeries(t *testing.T) {
	text, ak := madeQuote(t)
	_, other := madeQuote(t)
	parse := func() *Quote {
		q, err := ParseQuote(text)
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	if err := parse().Verify(&ak, []byte("nonce")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(q *Quote)
		ak     *tpm2.TPMTPublic
		nonce  string
	}{
		"replayed":         {func(*Quote) {}, &ak, "another"},
		"another AK":       {func(*Quote) {}, &other, "nonce"},
		"changed PCR":      {func(q *Quote) { q.Values[3][0] ^= 1 }, &ak, "nonce"},
		"hidden PCR":       {func(q *Quote) { q.PCRs, q.Values = q.PCRs[1:], q.Values[1:] }, &ak, "nonce"},
		"changed bytes":    {func(q *Quote) { q.AttestRaw[len(q.AttestRaw)-1] ^= 1 }, &ak, "nonce"},
		"not a quote":      {func(q *Quote) { q.Attest.Type = tpm2.TPMSTAttestCertify }, &ak, "nonce"},
		"not from a TPM":   {func(q *Quote) { q.Attest.Magic = 1 }, &ak, "nonce"},
		"another PCR bank": {func(q *Quote) { q.Hash = tpm2.TPMAlgSHA1 }, &ak, "nonce"},
	} {
		q := parse()
		c.change(q)
		if err := q.Verify(c.ak, []byte(c.nonce)); !errors.Is(err, ErrQuoteInvalid) {
			t.Errorf("%s: error %v, want ErrQuoteInvalid", name, err)
		}
	}
}

func TestMalformedQuoteTexts(t *testing.T) {
	text, _ := madeQuote(t)
	parts := strings.Split(text[1:], ":")
	blob, _ := base64.StdEncoding.DecodeString(parts[2])
	with := func(offset int, value byte) string {
		b := bytes.Clone(blob)
		b[offset] = value
		return "r" + parts[0] + ":" + parts[1] + ":" + base64.StdEncoding.EncodeToString(b)
	}
	for name, text := range map[string]string{
		"empty":              "",
		"no r":               text[1:],
		"two parts":          "r" + parts[0] + ":" + parts[1],
		"four parts":         text + ":",
		"not base64":         "r?:" + parts[1] + ":" + parts[2],
		"attest cut":         "r" + parts[0][:40] + ":" + parts[1] + ":" + parts[2],
		"attest too long":    "r" + parts[0][:len(parts[0])-4] + "AAAAAAAA:" + parts[1] + ":" + parts[2],
		"no PCRs":            "r" + parts[0] + ":" + parts[1] + ":",
		"two banks":          with(0, 2),
		"short selection":    with(6, 2),
		"fewer lists":        with(132, 1),
		"very many lists":    with(135, 0xff),
		"nine in a list":     with(136, 9),
		"huge digest":        with(141, 1),
		"more PCRs selected": with(9, 0xff),
	} {
		if _, err := ParseQuote(text); !errors.Is(err, ErrQuoteFormat) {
			t.Errorf("%s: error %v, want ErrQuoteFormat", name, err)
		}
	}
}

func FuzzParseQuote(f *testing.F) {
	text, ak := madeQuote(f)
	f.Add(text)
	f.Add("r::")
	f.Fuzz(func(t *testing.T, text string) {
		q, err := ParseQuote(text)
		if err != nil {
			if !errors.Is(err, ErrQuoteFormat) {
				t.Fatalf("error %v does not match ErrQuoteFormat", err)
			}
			return
		}
		_ = q.Verify(&ak, []byte("nonce"))
		again, err := ParseQuote(q.String())
		if err != nil {
			t.Fatalf("own encoding is refused: %v", err)
		}
		if again.String() != q.String() {
			t.Fatal("encoding is not stable")
		}
	})
}

func FuzzRegistrarAnswers(f *testing.F) {
	f.Add(200, `{"code":200,"status":"Success","results":{"blob":"utzA3gAAAAEAAmlkAANzZWM="}}`)
	f.Add(403, `{"code":403,"status":"no"}`)
	f.Add(200, `{"results":null}`)
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 200 || status > 599 {
			return
		}
		client := &registrarClient{base: "http://registrar", ours: APIVersions(), http: &http.Client{Transport: roundTrip(func(*http.Request) *http.Response {
			w := httptest.NewRecorder()
			w.WriteHeader(status)
			_, _ = w.WriteString(body)
			return w.Result()
		})}}
		_, _ = client.apiVersion(t.Context())
		blob, err := client.register(t.Context(), "2.6", "id", registration{})
		if err == nil {
			_, _, _ = parseCredential(blob)
		}
	})
}

type roundTrip func(*http.Request) *http.Response

func (r roundTrip) RoundTrip(q *http.Request) (*http.Response, error) { return r(q), nil }

func FuzzRequests(f *testing.F) {
	a := &Agent{payload: sharedPayloadKey(), uuid: "id", log: slog.New(slog.DiscardHandler), payloadPEM: "pem"}
	a.device = newDevice(nil)
	a.device.closed = true // everything but the TPM
	a.ak = &attestationKey{}
	for path := range endpoints {
		f.Add("GET", "/v2.6"+path, "nonce=a&mask=0x1&partial=0&challenge=b", "")
		f.Add("POST", "/v2.6"+path, "", `{"encrypted_key":"AAAA","auth_tag":"00","payload":"AA==","msg":"","signature":""}`)
	}
	var once sync.Mutex
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		r := httptest.NewRequest("GET", "/", strings.NewReader(body))
		r.Method, r.URL.Path, r.URL.RawQuery = method, path, query
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		once.Lock()
		defer once.Unlock()
		a.serveHTTP(w, r)
		if w.Body.Len() == 0 && w.Header().Get("Content-Type") == "" && (w.Code == 405 || w.Code == 431 || w.Code == 400) {
			return // what the web framework of the Rust agent answers by itself
		}
		var e envelope
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Code != w.Code {
			t.Fatalf("%s %s: %d %q %v", method, path, w.Code, w.Body, err)
		}
	})
}

// BenchmarkQuote measures a whole quote of PCR 10 and 16: five TPM commands and
// the encoding.
func BenchmarkQuote(b *testing.B) {
	for _, ak := range []string{AKRSASSA, AKECDSA} {
		b.Run(ak, func(b *testing.B) {
			cfg := baseConfig(startTPM(b), newCA(b, "cv_ca"))
			cfg.AKAlgorithm = ak
			a := newAgent(b, cfg)
			for b.Loop() {
				if _, err := a.quote(b.Context(), []byte("12345678901234567890"), 0x400); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
