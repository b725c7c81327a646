package push

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keylab.dev/keylab/agent"
)

// sameJSON compares two JSON documents, and shows both if they differ.
func sameJSON(t *testing.T, what string, got []byte, want string) {
	t.Helper()
	var g, w any
	if err := json.Unmarshal(got, &g); err != nil {
		t.Fatalf("%s: %s: %v", what, got, err)
	}
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatalf("%s: wanted: %v", what, err)
	}
	if !reflect.DeepEqual(g, w) {
		t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
	}
}

const (
	imaWanted  = `{"evidence_class": "log", "evidence_type": "ima_log", "chosen_parameters": {"starting_offset": %d, "format": "text/plain"}}`
	uefiWanted = `{"evidence_class": "log", "evidence_type": "uefi_log", "chosen_parameters": {"format": "application/octet-stream"}}`
)

// The members, their names and forms are those of the Rust agent (rust-keylime 0.2.9, keylime/src/structures) with the fake TPM's values.
func TestRequestBodies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, func(cfg *Config) {
			cfg.IMA = func(from int) (string, int, error) {
				return strings.Join([]string{"10 a\n", "10 b\n", "10 c"}[min(from, 3):], ""), 3, nil
			}
			cfg.BootLog = func() ([]byte, error) { return bootLog(2), nil }
		})
		// The logs before the quote: the order of the answer is the verifier's.
		w.wanted = "[" + fmt.Sprintf(imaWanted, 1) + "," + uefiWanted + "," + quoteWanted + "]"
		w.runFor(t, time.Second)
		if all := w.list(); len(all) != 1 || all[0].Err != nil {
			t.Fatalf("%+v", all)
		}
		requests := w.of()
		if len(requests) != 4 {
			t.Fatalf("%d requests", len(requests))
		}
		sameJSON(t, "session", requests[0].body, `{"data": {"type": "session", "attributes": {"agent_id": "agent-1",
			"authentication_supported": [{"authentication_class": "pop", "authentication_type": "tpm_pop"}]}}}`)
		sameJSON(t, "proof", requests[1].body, `{"data": {"type": "session", "id": "5e55-10", "attributes": {"agent_id": "agent-1",
			"authentication_provided": [{"authentication_class": "pop", "authentication_type": "tpm_pop",
			"data": {"message": "Y2VydGlmaWVkIHNlc3Npb24tY2hhbGxlbmdl", "signature": "c2lnbmF0dXJl"}}]}}}`)
		sameJSON(t, "offer", requests[2].body, `{"data": {"type": "attestation", "attributes": {"evidence_supported": [
			{"evidence_class": "certification", "evidence_type": "tpm_quote", "capabilities": {"component_version": "2.0",
				"hash_algorithms": ["sha1", "sha256"], "signature_schemes": ["ecdsa", "rsassa"],
				"available_subjects": {"sha1": [0], "sha256": [0, 10, 15]},
				"certification_keys": [{"key_class": "asymmetric", "key_algorithm": "rsa", "key_size": 2048, "server_identifier": "ak",
					"local_identifier": "000bab", "public": "cHVibGlj",
					"allowable_hash_algorithms": ["sha256"], "allowable_signature_schemes": ["rsassa"]}]}},
			{"evidence_class": "log", "evidence_type": "uefi_log", "capabilities": {"evidence_version": "2.1", "entry_count": 2,
				"supports_partial_access": false, "appendable": false, "formats": ["application/octet-stream"]}},
			{"evidence_class": "log", "evidence_type": "ima_log", "capabilities": {"entry_count": 3,
				"supports_partial_access": true, "appendable": true, "formats": ["text/plain"]}}],
			"system_info": {"boot_time": "2001-09-09T01:46:40Z"}}}}`)
		q, _ := w.tpm.QuotePCRs(t.Context(), []byte("0123456789abcdef"), []uint{0, 15})
		values, _ := json.Marshal(q.PCRBlob())
		log, _ := json.Marshal(bootLog(2))
		sameJSON(t, "evidence", requests[3].body, fmt.Sprintf(`{"data": {"type": "attestation", "attributes": {"evidence_collected": [
			{"evidence_class": "log", "evidence_type": "ima_log", "data": {"entries": "10 b\n10 c\n", "entry_count": 2}},
			{"evidence_class": "log", "evidence_type": "uefi_log", "data": {"entries": %s}},
			{"evidence_class": "certification", "evidence_type": "tpm_quote", "data": {"subject_data": %s,
				"message": "cXVvdGVkIDAxMjM0NTY3ODlhYmNkZWY=", "signature": "c2lnbmF0dXJl"}}]}}}`, log, values))
		for i, want := range []string{"/v3.0/sessions", "/v3.0/sessions/5e55-10", strings.TrimSuffix(below, "/"), below + "0"} {
			if requests[i].path != want {
				t.Errorf("request %d to %s, want %s", i, requests[i].path, want)
			}
		}
	})
}

// TestLogsAreReadAfterTheQuote: a list may be ahead of the quoted PCR 10, never behind.
func TestLogsAreReadAfterTheQuote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list := []string{"10 a\n"}
		w := startWorld(t, func(cfg *Config) {
			cfg.IMA = func(from int) (string, int, error) {
				return strings.Join(list[min(from, len(list)):], ""), len(list), nil
			}
		})
		w.runner.tpm = &growing{w.runner.tpm, func() { list = append(list, "10 measured before the quote\n") }}
		w.wanted = "[" + fmt.Sprintf(imaWanted, 0) + "," + quoteWanted + "]"
		w.runFor(t, time.Second)
		if evidence := w.of(StepEvidence); len(evidence) != 1 || !strings.Contains(string(evidence[0].body), "10 measured before the quote") {
			t.Errorf("evidence %s, want the entry that the quote covers", evidence[0].body)
		}
	})
}

// growing measures something before each quote.
type growing struct {
	prover
	grow func()
}

func (g *growing) QuotePCRs(ctx context.Context, nonce []byte, pcrs []uint) (*agent.Quote, error) {
	g.grow()
	return g.prover.QuotePCRs(ctx, nonce, pcrs)
}

// What a verifier can say that makes no sense, or that this agent cannot do. None of it stops the agent.
func TestUnusableAnswers(t *testing.T) {
	session := func(body string) handler { return answers(200, nil, body) }
	negotiated := func(location, wanted string) handler {
		return answers(201, map[string]string{"Location": location}, `{"data": {"type": "attestation", "attributes": {"evidence_requested": `+wanted+`}}}`)
	}
	quoteWith := func(parameters string) handler {
		return negotiated(below+"0", `[{"evidence_class": "certification", "evidence_type": "tpm_quote", "chosen_parameters": `+parameters+`}]`)
	}
	challenge := func(text string) handler {
		return session(`{"data": {"type": "session", "id": "1", "attributes": {"authentication_requested": [
			{"authentication_class": "pop", "authentication_type": "tpm_pop", "chosen_parameters": {"challenge": "` + text + `"}}]}}}`)
	}
	token := func(text string) handler {
		return session(`{"data": {"type": "session", "id": "1", "attributes": {"evaluation": "pass", "token": ` + text + `}}}`)
	}
	for name, c := range map[string]struct {
		step string
		handler
		says string
	}{
		"not JSON":                 {StepSession, session("<html>"), "invalid character"},
		"empty":                    {StepSession, session(""), "unexpected end"},
		"not a session":            {StepSession, session(`{"data": {"type": "attestation"}}`), `type "attestation"`},
		"no data":                  {StepSession, session(`{"data": null}`), `type ""`},
		"a list":                   {StepSession, session(`{"data": []}`), "cannot unmarshal array"},
		"oversize":                 {StepSession, session(strings.Repeat(" ", maxAnswer+1e5)), "longer than"},
		"another path":             {StepSession, session(`{"data": {"type": "session", "id": "../agents", "attributes": {}}}`), `session "../agents"`},
		"no method":                {StepSession, session(`{"data": {"type": "session", "id": "1", "attributes": {}}}`), "no proof of possession"},
		"empty challenge":          {StepSession, challenge(""), "0 bytes"},
		"long challenge":           {StepSession, challenge(strings.Repeat("AAAA", 22)), "66 bytes"},
		"challenge not base64":     {StepSession, challenge("???"), "illegal base64"},
		"no token":                 {StepProof, token("null"), "no token"},
		"token with a line break":  {StepProof, token(`"a\nX-Evil: 1"`), "no token"},
		"token of another type":    {StepProof, token("{}"), "cannot unmarshal"},
		"200 instead of 201":       {StepNegotiate, answers(200, nil, "{}"), "answered 200"},
		"redirect":                 {StepNegotiate, answers(307, map[string]string{"Location": "https://elsewhere.lab.test/"}, ""), "answered 307"},
		"no location":              {StepNegotiate, answers(201, nil, "{}"), "no Location"},
		"location elsewhere":       {StepNegotiate, negotiated("https://elsewhere.lab.test:8881"+below+"0", "[]"), "another server"},
		"location without TLS":     {StepNegotiate, negotiated("http://"+testHost+":8881"+below+"0", "[]"), "another server"},
		"location of another":      {StepNegotiate, negotiated("/v3.0/agents/agent-2/attestations/0", "[]"), "not an attestation of this agent"},
		"location without a index": {StepNegotiate, negotiated(below+"latest", "[]"), "invalid syntax"},
		"location too deep":        {StepNegotiate, negotiated(below+"0/1", "[]"), "invalid syntax"},
		"location not a URL":       {StepNegotiate, negotiated("%zz", "[]"), "invalid URL escape"},
		"unknown evidence":         {StepNegotiate, negotiated(below+"0", `[{"evidence_class": "log", "evidence_type": "journal"}]`), "log/journal, which was not"},
		"log that is not there":    {StepNegotiate, negotiated(below+"0", "["+uefiWanted+"]"), "log/uefi_log, which was not offered"},
		"too much":                 {StepNegotiate, negotiated(below+"0", "["+strings.Repeat(quoteWanted+",", 8)+quoteWanted+"]"), "9 pieces"},
		"SHA-1 quote": {StepNegotiate, quoteWith(`{"challenge": "AAAA", "hash_algorithm": "sha1", "signature_scheme": "rsassa",
			"selected_subjects": {"sha1": [0]}}`), `wants "rsassa" with "sha1"`},
		"ECDSA": {StepNegotiate, quoteWith(`{"challenge": "AAAA", "hash_algorithm": "sha256", "signature_scheme": "ecdsa",
			"selected_subjects": {"sha256": [0]}}`), `wants "ecdsa" with "sha256"`},
		"no PCRs": {StepNegotiate, quoteWith(`{"challenge": "AAAA", "hash_algorithm": "sha256", "signature_scheme": "rsassa",
			"selected_subjects": {"sha256": null}}`), "0 PCRs"},
		"PCR 24": {StepNegotiate, quoteWith(`{"challenge": "AAAA", "hash_algorithm": "sha256", "signature_scheme": "rsassa",
			"selected_subjects": {"sha256": [0, 24]}}`), "want one or more of 0-23"},
		"PCR -1": {StepNegotiate, quoteWith(`{"hash_algorithm": "sha256", "selected_subjects": {"sha256": [-1]}}`), "cannot unmarshal"},
		"no quote challenge": {StepNegotiate, quoteWith(`{"hash_algorithm": "sha256", "signature_scheme": "rsassa",
			"selected_subjects": {"sha256": [0]}}`), "challenge: 0 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := startWorld(t, nil)
				w.then(c.step, c.handler)
				w.runFor(t, 2*time.Second)
				all := w.list()
				var status *VerifierError
				if err := all[0].Err; err == nil || !strings.Contains(err.Error(), c.says) || !errors.Is(err, ErrVerifierAnswer) && !errors.As(err, &status) {
					t.Errorf("error %v, want one that matches ErrVerifierAnswer and says %q", err, c.says)
				}
				if all[0].Verdict != NotSent || all[1].Verdict != Accepted {
					t.Errorf("%+v, want nothing sent, and the next attempt to go well", all[:2])
				}
				for _, r := range w.of() {
					if r.path != "/v3.0/sessions" && !strings.HasPrefix(r.path, "/v3.0/sessions/5e55") && !strings.HasPrefix(r.path, strings.TrimSuffix(below, "/")) &&
						r.path != "/v3.0/sessions/1" {
						t.Errorf("a request to %s", r.path)
					}
				}
			})
		})
	}
}

func TestPolicyThatWantsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.wanted = "[]"
		w.runFor(t, time.Second)
		if a := w.list()[0]; !errors.Is(a.Err, ErrNothingAsked) || a.Index != 0 || len(w.of(StepEvidence)) != 0 {
			t.Errorf("%+v, want ErrNothingAsked, and no evidence sent", a)
		}
	})
}

// Evidence is accepted with the status; what the rest of the answer looks like comes second.
func TestUnusableReceipts(t *testing.T) {
	for name, body := range map[string]string{"not JSON": "accepted", "oversize": strings.Repeat(" ", 2*maxAnswer), "another type": `{"data": {"type": "x"}}`} {
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, func(cfg *Config) { cfg.Interval = 7 * time.Second })
			w.then(StepEvidence, answers(202, nil, body))
			w.runFor(t, time.Second)
			if a := w.list()[0]; a.Verdict != Accepted || !errors.Is(a.Err, ErrVerifierAnswer) || a.Next != 7*time.Second {
				t.Errorf("%s: %+v, want it accepted with ErrVerifierAnswer, and the next after Interval", name, a)
			}
		})
	}
}

// The verifier repeats evidence in its answer, so a long log makes a long one.
func TestReceiptOfALongLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := strings.Repeat("10 entry \u00fc\n", 300_000)
		w := startWorld(t, func(cfg *Config) { cfg.IMA = func(int) (string, int, error) { return long, 300_000, nil } })
		w.wanted = "[" + quoteWanted + "," + fmt.Sprintf(imaWanted, 0) + "]"
		w.then(StepEvidence, func(rw http.ResponseWriter, r *http.Request) bool {
			return answers(202, nil, `{"data": {"type": "attestation", "attributes": {"entries": "`+strings.Repeat(`10 entry \u00fc\n`, 300_000)+`"}}}`)(rw, r)
		})
		w.runFor(t, time.Second)
		if a := w.list()[0]; a.Err != nil || a.Verdict != Accepted {
			t.Errorf("%s %v", a.Verdict, a.Err)
		}
	})
}

func TestIMAListFromTheOffsetOn(t *testing.T) {
	for _, c := range []struct {
		parameters string
		entries    string // nil for an error
		says       string
	}{
		{`{"starting_offset": 0}`, `"10 a\n10 b\n10 c\n"`, ""},
		{`{}`, `"10 a\n10 b\n10 c\n"`, ""},
		{`{"starting_offset": 2}`, `"10 c\n"`, ""},
		{`{"starting_offset": 3}`, `""`, ""},
		{`{"starting_offset": 1, "entry_count": 1}`, `"10 b\n"`, ""},
		{`{"starting_offset": 1, "entry_count": 9}`, `"10 b\n10 c\n"`, ""},
		{`{"starting_offset": 4}`, "", "from entry 4 of 3"},
		{`{"starting_offset": -1}`, "", "from entry -1 of 3"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, func(cfg *Config) {
				cfg.IMA = func(from int) (string, int, error) {
					return strings.Join([]string{"10 a\n", "10 b\n", "10 c\n"}[min(from, 3):], ""), 3, nil
				}
			})
			w.wanted = `[{"evidence_class": "log", "evidence_type": "ima_log", "chosen_parameters": ` + c.parameters + "}]"
			w.runFor(t, time.Second)
			a := w.list()[0]
			if c.says != "" {
				if !errors.Is(a.Err, ErrVerifierAnswer) || !strings.Contains(a.Err.Error(), c.says) {
					t.Errorf("%s: %v, want an error that says %q", c.parameters, a.Err, c.says)
				}
				return
			}
			if evidence := w.of(StepEvidence); len(evidence) != 1 || !strings.Contains(string(evidence[0].body), `"entries":`+c.entries) {
				t.Errorf("%s: %+v, want entries %s", c.parameters, a, c.entries)
			}
		})
	}
}

// What the agent itself cannot do is reported, and tried again.
func TestOwnFailures(t *testing.T) {
	gone := errors.New("gone")
	for name, change := range map[string]func(*Config, *fakeTPM){
		"TPM":      func(_ *Config, tpm *fakeTPM) { tpm.err = gone },
		"IMA list": func(cfg *Config, _ *fakeTPM) { cfg.IMA = func(int) (string, int, error) { return "", 0, gone } },
		"boot log": func(cfg *Config, _ *fakeTPM) { cfg.BootLog = func() ([]byte, error) { return nil, gone } },
	} {
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, nil)
			change(w.cfg, w.runner.tpm.(*fakeTPM))
			w.runFor(t, 5*time.Second)
			all := w.list()
			if len(all) < 2 || !errors.Is(all[0].Err, gone) || all[0].Verdict != NotSent || len(w.of()) != 0 {
				t.Errorf("%s: %+v", name, all)
			}
		})
	}
}

func TestVerifierMustBeCertified(t *testing.T) {
	cert, roots := serverCertificate(t)
	_, strange := serverCertificate(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the verifier got a request") }))
	server.TLS, server.Config.ErrorLog = &tls.Config{Certificates: []tls.Certificate{cert}}, log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	for _, c := range []struct {
		verifier string
		roots    *x509.CertPool
		want     any
	}{
		{testHost + ":8881", strange, new(x509.UnknownAuthorityError)},
		{"other.lab.test:8881", roots, new(x509.HostnameError)},
		{"127.0.0.1:8881", roots, new(x509.HostnameError)},
	} {
		cfg, err := Config{Verifier: c.verifier, VerifierCA: c.roots, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
		}}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		u := &runner{cfg: &cfg, log: cfg.Logger, uuid: testAgent, tpm: &fakeTPM{}, client: newClient(&cfg)}
		if a, _ := u.attest(t.Context()); !errors.As(a.Err, c.want) {
			t.Errorf("%s: %v, want a %T", c.verifier, a.Err, c.want)
		}
	}
}

// bootLog is a log in the crypto agile format with n events after the first.
func bootLog(n int) []byte {
	le := binary.LittleEndian
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	spec = le.AppendUint32(spec, 2)
	for _, algorithm := range [][2]uint16{{0x0004, 20}, {0x000b, 32}} {
		spec = le.AppendUint16(le.AppendUint16(spec, algorithm[0]), algorithm[1])
	}
	spec = append(spec, 0)
	log := append(le.AppendUint32(le.AppendUint32(nil, 0), 3), make([]byte, 20)...)
	log = append(le.AppendUint32(log, uint32(len(spec))), spec...)
	for i := range n {
		log = le.AppendUint32(le.AppendUint32(le.AppendUint32(log, uint32(i)), 1), 2)
		log = append(le.AppendUint16(log, 0x0004), make([]byte, 20)...)
		log = append(le.AppendUint16(log, 0x000b), make([]byte, 32)...)
		log = append(le.AppendUint32(log, 5), "event"...)
	}
	return log
}

func TestBootEventsAreCounted(t *testing.T) {
	whole := bootLog(3)
	unknown := slices.Clone(whole)
	unknown[len(unknown)-5-4-32-2] = 0x0c // the last digest is of an algorithm that the log does not declare
	for name, c := range map[string]struct {
		log  []byte
		want int
	}{
		"three": {whole, 3}, "none": {bootLog(0), 0}, "no log": {nil, 0}, "cut in the last event": {whole[:len(whole)-1], 2},
		"undeclared algorithm": {unknown, 2}, "another format": {make([]byte, 500), 0}, "cut in the first event": {whole[:40], 0},
	} {
		if got := countBootEvents(c.log); got != c.want {
			t.Errorf("%s: %d events, want %d", name, got, c.want)
		}
	}
}

func TestUnusableConfigurations(t *testing.T) {
	_, err := New(t.Context(), Config{Verifier: "verifier.lab.test", Interval: -1})
	for _, want := range []string{`Verifier "verifier.lab.test"`, "VerifierCA", "Interval"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one that names %s", err, want)
		}
	}
	for _, verifier := range []string{":8881", "host:0", "host:65536", "host:https"} {
		if _, err := New(t.Context(), Config{Verifier: verifier, VerifierCA: x509.NewCertPool()}); err == nil || !strings.Contains(err.Error(), "Verifier ") {
			t.Errorf("Verifier %q: %v", verifier, err)
		}
	}
	_, err = New(t.Context(), Config{Verifier: "host:1", VerifierCA: x509.NewCertPool(), UUID: "a b"})
	if err == nil || !strings.Contains(err.Error(), "OpenTPM") || !strings.Contains(err.Error(), "UUID") {
		t.Errorf("error %v, want one that names OpenTPM and UUID", err)
	}
}

func TestMachineBootTime(t *testing.T) {
	boot, err := machineBootTime()
	if err != nil || boot.After(time.Now()) || boot.Year() < 2000 {
		t.Errorf("%s, %v", boot, err)
	}
}
