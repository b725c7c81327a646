package push

import (
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// script is a verifier that answers with given bodies.
type script struct {
	t                                    *testing.T
	session, proof, negotiated, location string
	receipt, retryAfter                  string
	granted                              bool // a token was handed out
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return nil, err
		}
	}
	if r.URL.Scheme != "https" || r.URL.Host != testHost+":8881" {
		s.t.Errorf("a request to %s", r.URL)
	}
	status, body, header := 200, s.session, http.Header{}
	switch path := r.URL.Path; {
	case r.Method == http.MethodPost && path == sessionPath:
	case r.Method == http.MethodPatch && strings.HasPrefix(path, sessionPath+"/"):
		body, s.granted = s.proof, true
	case !s.granted || r.Header.Get("Authorization") == "Bearer ":
		s.t.Errorf("%s %s without a token", r.Method, path)
	case r.Method == http.MethodPost && path+"/" == below:
		status, body = 201, s.negotiated
		header["Location"] = []string{s.location}
	case r.Method == http.MethodPatch && strings.HasPrefix(path, below) && strings.Trim(path[len(below):], "0123456789") == "":
		status, body = 202, s.receipt
	default:
		s.t.Errorf("unexpected %s %s", r.Method, path)
	}
	if s.retryAfter != "" {
		status, header["Retry-After"] = 503, []string{s.retryAfter}
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// FuzzVerifierAnswers lets a verifier say anything. The agent must come to an end, send nothing but the protocol's requests to nobody but
// the verifier, have an error unless the evidence was accepted, and wait for a sensible time.
func FuzzVerifierAnswers(f *testing.F) {
	const (
		session = `{"data": {"type": "session", "id": "5e55-10", "attributes": {"authentication_requested": [
			{"authentication_class": "pop", "authentication_type": "tpm_pop", "chosen_parameters": {"challenge": "AAAA"}}]}}}`
		proof = `{"data": {"type": "session", "attributes": {"evaluation": "pass", "token": "t", "response_received_at": "2000-01-01T00:00:00Z",
			"token_expires_at": "2000-01-01T00:03:00Z"}}}`
		receipt = `{"data": {"type": "attestation"}, "meta": {"seconds_to_next_attestation": 1}}`
	)
	wanted := `{"data": {"type": "attestation", "attributes": {"evidence_requested": [` + quoteWanted + `]}}}`
	f.Add(session, proof, wanted, below+"0", receipt, "")
	f.Add(session, proof, wanted, below+"0", `{"data": {"type": "attestation"}, "meta": {"seconds_to_next_attestation": 1e308}}`, "")
	f.Add(session, strings.Replace(proof, "pass", "fail", 1), wanted, "//elsewhere.lab.test/", receipt, "")
	f.Add(session, proof, `{"data": {"type": "attestation", "attributes": {"evidence_requested": [`+
		strings.ReplaceAll(imaWanted, "%d", "1")+","+uefiWanted+`]}}}`, "7", receipt, "")
	f.Add(strings.Replace(session, "5e55", "..%2f", 1), proof, wanted, below, receipt, "120")
	f.Add("", "", "", "", "", "Fri, 31 Dec 1999 23:59:59 GMT")
	f.Fuzz(func(t *testing.T, session, proof, negotiated, location, receipt, retryAfter string) {
		cfg, err := Config{Verifier: testHost + ":8881", VerifierCA: x509.NewCertPool(),
			IMA:     func(from int) (string, int, error) { return "10 a\n"[min(5*from, 5):], 1, nil },
			BootLog: func() ([]byte, error) { return []byte(receipt), nil }}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		u := &runner{cfg: &cfg, log: cfg.Logger, uuid: testAgent, tpm: &fakeTPM{}, client: newClient(&cfg)}
		u.client.http.Transport = &script{t: t, session: session, proof: proof, negotiated: negotiated, location: location,
			receipt: receipt, retryAfter: retryAfter}
		for range 2 { // the second with the token of the first
			record, wanted := u.attest(t.Context())
			if pause := u.pause(&record, wanted); pause < cfg.RetryDelay*8/10 || pause > longestPause*11/10 {
				t.Errorf("pause of %s", pause)
			}
			if record.Verdict != Accepted && record.Err == nil {
				t.Errorf("no evidence accepted, but no error: %+v", record)
			}
			if record.Verdict == Accepted && (record.Index < 0 || record.Status(StepEvidence) != 202 ||
				record.Err != nil && !errors.Is(record.Err, ErrVerifierAnswer)) {
				t.Errorf("accepted: %+v", record)
			}
			if record.Finished.Sub(record.Started) > time.Minute || len(record.Exchanges) > 6 {
				t.Errorf("%d requests in %s", len(record.Exchanges), record.Finished.Sub(record.Started))
			}
		}
	})
}
