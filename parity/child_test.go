package parity

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"keylab.dev/keylab/keylime"
)

// What is wrong with an order is said.
func TestOrders(t *testing.T) {
	dir := t.TempDir()
	if _, err := keylime.CreatePKI(dir, keylime.PKIOptions{}); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"":                                   "read the order: EOF",
		`{"pki":"/does/not/exist"}`:          "certificate authority: open /does/not/exist",
		`{"do":"dance","pki":"` + dir + `"}`: `there is no order "dance"`,
		`{"do":"cases","uuid":"u","registrar":"127.0.0.1:1","pki":"` + dir + `"}`: "ask the registrar for agent u",
	} {
		var out bytes.Buffer
		if err := RunChild(t.Context(), strings.NewReader(in), &out); err == nil || !strings.Contains(err.Error(), want) || out.Len() > 0 {
			t.Errorf("%s: %v %q, want %s", in, err, out.String(), want)
		}
	}
	for want, o := range map[string]Options{
		"case: error parsing regexp":                  {Agent: dir, Case: "("},
		`only "everything"`:                           {Only: "everything"},
		"the other agent: stat /does/not/exist":       {Agent: "/does/not/exist"},
		"the other agent: stat /neither/does/this":    {PushAgent: "/neither/does/this"},
		"no agent of the push model is given":         {},
		"only cases: this needs an agent of the pull": {Only: OnlyCases, PushAgent: dir},
		"no agent of the push model is given ":        {Agent: dir, Only: OnlyPush},
	} {
		if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("%+v: %v, want %s", o, err, want)
		}
	}
}

// The certificates that an agent must refuse are what they are called.
func TestOtherCertificates(t *testing.T) {
	dir := t.TempDir()
	pki, err := keylime.CreatePKI(dir, keylime.PKIOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var target Target
	if err := target.otherCertificates(dir); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		cert   tls.Certificate
		signed bool
	}{"client": {target.Client, true}, "stranger": {target.Stranger, false}, "expired": {target.Expired, true}, "future": {target.Future, true},
		"server": {target.Server, true}} {
		leaf := leafOf(t, c.cert)
		if signed := leaf.CheckSignatureFrom(pki.CACert) == nil; signed != c.signed || leaf.Issuer.String() != pki.CACert.Subject.String() {
			t.Errorf("%s: signed by Keylime's CA is %v, want %v; issuer %s", name, signed, c.signed, leaf.Issuer)
		}
	}
	if err := target.otherCertificates(t.TempDir()); err == nil || !strings.Contains(err.Error(), "certificate authority") {
		t.Errorf("an empty folder: %v", err)
	}
}

// Slow cases come after all others, and only those of the place that is meant are done.
func TestDoAll(t *testing.T) {
	var mu sync.Mutex
	var order []string
	do := func(name string) func(context.Context, *Target) Observation {
		return func(context.Context, *Target) Observation {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, name)
			return Observation{End: name}
		}
	}
	cases := []Case{{Name: "slow", Slow: true, Do: do("slow")}, {Name: "direct", Direct: true, Do: do("direct")}, {Name: "a", Do: do("a")}, {Name: "b",
		Do: do("b")}}
	got, err := new(Target).DoAll(t.Context(), cases, false)
	if err != nil || !slices.Equal(order, []string{"a", "b", "slow"}) || len(got) != 3 || got[": a"].End != "a" {
		t.Errorf("done: %v, %v, %v", order, got, err)
	}
	order = nil
	if got, err = new(Target).DoAll(t.Context(), cases, true); err != nil || len(got) != 1 || got[": direct"].End != "direct" {
		t.Errorf("direct: %v, %v", got, err)
	}
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err = new(Target).DoAll(ended, cases, false); err == nil || err.Error() != "enough" {
		t.Errorf("an ended run: %v", err)
	}
}

// fakeVerifier answers with one agent state after the other, and then with the last again.
func fakeVerifier(t *testing.T, states ...string) *keylime.VerifierClient {
	t.Helper()
	var mu sync.Mutex
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		results := `{"current_version":"2.6","supported_versions":["2.6"]}`
		if r.URL.Path != "/version" {
			mu.Lock()
			results = states[0]
			if len(states) > 1 {
				states = states[1:]
			}
			mu.Unlock()
		}
		if results == "" {
			w.WriteHeader(http.StatusNotFound)
		}
		fmt.Fprintf(w, `{"code":200,"status":"Success","results":%s}`, results)
	}))
	t.Cleanup(server.Close)
	return keylime.NewVerifierClient(server.Listener.Addr().String(), server.Client().Transport.(*http.Transport).TLSClientConfig, nil)
}

func TestVerdict(t *testing.T) {
	state := func(state, count int, event string) string {
		data, err := json.Marshal(map[string]any{"operational_state": state, "attestation_count": count, "attestation_status": "S", "last_event_id": event,
			"severity_level": len(event), "ip": "a.agents", "port": 443})
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for name, c := range map[string]struct {
		states []string
		want   Verdict
	}{
		"given up at once":    {[]string{state(9, 7, "e")}, Verdict{State: "Invalid Quote", Status: "S", Event: "e", Severity: 1}},
		"given up in the end": {[]string{state(3, 7, ""), state(4, 7, ""), state(7, 7, "ee")}, Verdict{State: "Failed", Status: "S", Event: "ee", Severity: 2}},
		"good":                {[]string{state(3, 7, ""), state(3, 10, ""), state(3, 11, "")}, Verdict{State: "Get Quote", Status: "S"}},
		"enrolled anew, good": {[]string{state(3, 50, ""), state(3, 0, ""), state(3, 4, ""), state(7, 4, "x")}, Verdict{State: "Get Quote", Status: "S"}},
		"enrolled anew": {[]string{state(3, 50, ""), "", state(3, 0, ""), state(3, 3, ""), state(9, 3, "x")}, Verdict{State: "Invalid Quote", Status: "S",
			Event: "x", Severity: 1}},
	} {
		got, err := awaitVerdict(t.Context(), fakeVerifier(t, c.states...), "u")
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
	push := func(status string, count int) string {
		return fmt.Sprintf(`{"operational_state":7,"attestation_count":%d,"attestation_status":%q,"ip":null,"port":null}`, count, status)
	}
	for name, c := range map[string]struct {
		states []string
		want   Verdict
	}{
		"push, failed":                  {[]string{push("PASS", 3), push("FAIL", 3)}, Verdict{Status: "FAIL"}},
		"push, good":                    {[]string{push("PASS", 3), push("PASS", 7)}, Verdict{Status: "PASS"}},
		"push, overdue for a moment":    {[]string{push("PASS", 3), push("TIMEOUT", 3), push("PASS", 7)}, Verdict{Status: "PASS"}},
		"push, overdue, then it failed": {[]string{push("TIMEOUT", 3), push("FAIL", 3)}, Verdict{Status: "FAIL"}},
	} {
		got, err := awaitVerdict(t.Context(), fakeVerifier(t, c.states...), "u")
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if _, err := awaitVerdict(ctx, fakeVerifier(t, state(3, 1, "")), "u"); err == nil || !strings.Contains(err.Error(), "agent u: enough; the last answer:") {
		t.Errorf("an ended wait: %v", err)
	}
}

func leafOf(t *testing.T, c tls.Certificate) *x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}
