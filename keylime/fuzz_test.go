package keylime

import (
	"bytes"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// roundTrip answers every request.
type roundTrip func(*http.Request) *http.Response

func (r roundTrip) RoundTrip(q *http.Request) (*http.Response, error) { return r(q), nil }

// answering is a service that knows its version, and says the same to all else.
func answering(service string, status int, body string) *restClient {
	c := newREST(service, "198.18.10.11:1", nil, nil)
	c.http.Transport = roundTrip(func(q *http.Request) *http.Response {
		code, text := status, body
		if q.URL.Path == "/version" {
			code, text = http.StatusOK, `{"code":200,"status":"Success","results":{"current_version":"2.6","supported_versions":["2.6"]}}`
		}
		return &http.Response{StatusCode: code, Body: io.NopCloser(strings.NewReader(text)), Header: http.Header{}, Request: q}
	})
	return c
}

// checkStatusError wants the status in an error about an answer that is no success.
func checkStatusError(t *testing.T, status int, err error) {
	t.Helper()
	var s *StatusError
	if status/100 != 2 && (!errors.As(err, &s) || s.Code != status) {
		t.Fatalf("status %d: error %v", status, err)
	}
}

func FuzzRegistrarAnswers(f *testing.F) {
	f.Add(200, `{"code":200,"status":"Success","results":{"uuids":["a"]}}`)
	f.Add(200,
		`{"code":200,"status":"Success","results":{"ek_tpm":"AAAA","aik_tpm":"AAA=","ekcert":"",`+
			`"mtls_cert":"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n","ip":"a","port":"9002","regcount":1}}`)
	f.Add(404, `{"code":404,"status":"no"}`)
	f.Add(200, `{"results":{"port":1e9}}`)
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 200 || status > 599 {
			return
		}
		c := &RegistrarClient{answering("registrar", status, body)}
		_, err := c.Agents(t.Context())
		checkStatusError(t, status, err)
		a, err := c.Agent(t.Context(), "u")
		checkStatusError(t, status, err)
		if err == nil && a.UUID != "u" {
			t.Fatalf("asked for u, got %q", a.UUID)
		}
		checkStatusError(t, status, c.Delete(t.Context(), "u"))
	})
}

func FuzzVerifierAnswers(f *testing.F) {
	const agent = `{"operational_state":3,"attestation_status":"PASS","attestation_count":7,"last_received_quote":1,"last_successful_attestation":2,` +
		`"severity_level":6,"last_event_id":"a.b","ip":"x","port":443,"verifier_id":"default","tpm_policy":"{\"mask\":\"0x1\"}",` +
		`"hash_alg":"sha256","has_runtime_policy":1,"has_mb_refstate":0}`
	f.Add(200, `{"code":200,"status":"Success","results":`+agent+`}`)
	f.Add(200, `{"code":200,"status":"Success","results":{"u":`+agent+`}}`)
	f.Add(202, `{"results":null}`)
	f.Add(400, `{"code":400,"status":"No row was found when one was required"}`)
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 200 || status > 599 {
			return
		}
		c := &VerifierClient{answering("verifier", status, body)}
		a, err := c.Agent(t.Context(), "u")
		checkStatusError(t, status, err)
		if err == nil {
			_, _ = a.OperationalState.String(), a.OperationalState.Stopped()
			for _, when := range []time.Time{a.LastReceivedQuote, a.LastSuccessfulAttestation} {
				if !when.IsZero() && when.Unix() <= 0 {
					t.Fatalf("a quote of %v", when)
				}
			}
		}
		all, err := c.Agents(t.Context())
		checkStatusError(t, status, err)
		for id, a := range all {
			if a.UUID != id {
				t.Fatalf("%q is filed under %q", a.UUID, id)
			}
		}
		done, err := c.Delete(t.Context(), "u")
		checkStatusError(t, status, err)
		if done && status != http.StatusOK {
			t.Fatalf("deleted at status %d", status)
		}
		checkStatusError(t, status, c.Reactivate(t.Context(), "u"))
	})
}

// FuzzVersions: what is agreed on was offered, and is 2.x up to newestAPI.
func FuzzVersions(f *testing.F) {
	f.Add("1.0 2.0 2.6 3.0")
	f.Add("2 2. 2.-1 2.99999999999999999999 x")
	f.Fuzz(func(t *testing.T, offered string) {
		list := strings.Fields(offered)
		v := negotiate(list)
		if v != "" && (!slices.Contains(list, v) || v != "2" && !strings.HasPrefix(v, "2.")) {
			t.Fatalf("%q of %q", v, list)
		}
	})
}

// FuzzTenantOutput: whatever the tenant prints, complaints are lines of it.
func FuzzTenantOutput(f *testing.F) {
	f.Add("2024-01-01 00:00:00.000 - keylime.tenant - ERROR - no\nkeylime_tenant: error: unknown\n", 1)
	f.Add("keylime.cert_utils - DEBUG - Cert to verify matched cert: /a/b.pem\nQuote from Agent u (x) validated\n", 0)
	f.Fuzz(func(t *testing.T, output string, code int) {
		r := newResult([]string{"-c", "add", "-u", "u"}, scriptReply{Code: code, Output: output})
		if r.UUID != "u" || r.OK != (code == 0) || r.OK != (r.Err() == nil) || strings.Contains(r.EKStoreFile, "/") && r.EKStoreFile != "/" {
			t.Fatalf("%q: %+v", output, r)
		}
		for word := range strings.SplitSeq(r.Message, "; ") {
			if !strings.Contains(output, word) {
				t.Fatalf("%q: complaint %q", output, word)
			}
		}
	})
}

// FuzzINI: a file that is not changed stays as it is, and a value that is set is the one that is read.
func FuzzINI(f *testing.F) {
	f.Add("# a\n[tenant]\nip = x\n  y\n\nPort=1\n", "z")
	f.Add("[a]\n[b]\n= x\n", "")
	f.Fuzz(func(t *testing.T, text, value string) {
		ini := parseINI(text)
		if want := strings.TrimRight(text, "\n") + "\n"; ini.String() != want {
			t.Fatalf("%q became %q", text, ini.String())
		}
		if strings.ContainsAny(value, "\r\n") || strings.TrimSpace(value) != value {
			return
		}
		for key := range ini.options {
			section, name, ok := strings.Cut(key, ".")
			if !ok || section == "" || strings.Contains(name, ".") || strings.TrimSpace(name) == "" || strings.ContainsAny(name[:1], "#;[") || !ini.has(section, name) {
				continue
			}
			if err := ini.set(section, name, value); err != nil || ini.get(section, name) != value {
				t.Fatalf("%q: %s set to %q is %q, %v", text, key, value, ini.get(section, name), err)
			}
			if again := parseINI(ini.String()); again.get(section, name) != value {
				t.Fatalf("%q: %s set to %q is read back as %q", text, key, value, again.get(section, name))
			}
			return
		}
	})
}

// FuzzPKI: a damaged authority's certificate is an error.
func FuzzPKI(f *testing.F) {
	dir := f.TempDir()
	if _, err := CreatePKI(dir, PKIOptions{}); err != nil {
		f.Fatal(err)
	}
	file := filepath.Join(dir, fileCACert)
	good, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(bytes.ReplaceAll(good, []byte("CERTIFICATE"), []byte("THING")))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := OpenPKI(dir)
		if err != nil {
			if bytes.Equal(data, good) {
				t.Fatalf("the authority as it was made is refused: %v", err)
			}
			return
		}
		if block, _ := pem.Decode(data); block == nil || block.Type != "CERTIFICATE" || !bytes.Equal(block.Bytes, got.CACert.Raw) {
			t.Fatalf("%q became the authority %v", data, got.CACert.Subject)
		}
	})
}
