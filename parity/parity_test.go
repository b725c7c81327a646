package parity

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/spec"
)

// The tables name each case once, and reasons are about cases that there are.
func TestTables(t *testing.T) {
	seen := map[string]bool{}
	groups := map[string]bool{}
	for _, c := range Cases() {
		if seen[c.ID()] {
			t.Errorf("two cases %s", c.ID())
		}
		seen[c.ID()], groups[c.Group] = true, true
		if c.Do == nil || c.Name == "" {
			t.Errorf("%q: nothing to do", c.ID())
		}
	}
	for _, g := range []string{"paths", "API versions", "methods", "identity quote", "integrity quote", "keys", "bodies", "key halves", "revocation", "HTTP",
		"sizes",
		"connections", "slow clients", "TLS", "HTTP/2", "at the agent's socket"} {
		if !groups[g] {
			t.Errorf("no case of group %q", g)
		}
	}
	reasoned := map[string]bool{}
	for _, r := range reasons {
		for _, c := range r.cases {
			if !seen[c] || reasoned[c] {
				t.Errorf("a reason for %q, which is no case, or has a reason already", c)
			}
			reasoned[c] = true
			if reasonFor(c) != r.why {
				t.Errorf("the reason of %s is %q", c, reasonFor(c))
			}
		}
	}
	verdicts := map[string]bool{}
	for _, c := range VerdictCases() {
		if verdicts[c.ID()] || c.do == nil && c.Name != "good" {
			t.Errorf("%q: twice, or nothing to do", c.ID())
		}
		verdicts[c.ID()] = true
	}
	for _, want := range []string{"verdict: PCR 10 extended, and the IMA list not", "verdict in the push model: PCR 10 extended, and the IMA list not",
		"verdict: boot: command-line", "verdict in the push model: boot: command-line", "verdict: payload, and a TPM policy that does not fit",
		"verdict and revocation actions: another node fails"} {
		if !verdicts[want] {
			t.Errorf("no case %q", want)
		}
	}
}

// The lab has four nodes with each kind of agent, one of which measures files, and one its boot; the first is given a payload where there is one.
func TestLab(t *testing.T) {
	for _, on := range stages {
		mode := on.mode
		s, err := on.spec("/opt/keylime_agent")
		if err != nil {
			t.Fatal(err)
		}
		p, err := lab.Plan(s)
		if err != nil {
			t.Fatal(err)
		}
		if p.Keylime.Push() != (mode == spec.ModePush) {
			t.Errorf("the lab %s is of mode %q", s.Name, p.Keylime.Mode)
		}
		for i, k := range kinds {
			for _, name := range []string{k.name, k.other, k.measured, k.boots} {
				n, ok := p.Node(name)
				if on.told && (name == k.measured || name == k.boots) {
					if ok {
						t.Errorf("the lab %s has a node %s", s.Name, name)
					}
					continue
				}
				if want := [2]string{"go", "binary"}[i]; !ok || n.Agent.Kind != want {
					t.Errorf("node %s has an agent of kind %q, want %q", name, n.Agent.Kind, want)
				}
				measures := name == k.measured || on.told && name == k.other
				if (n.IMA != nil) != measures || (n.MeasuredBoot != nil) != (name == k.boots) || (n.Payload != nil) != (name == k.measured && mode == spec.ModePull) {
					t.Errorf("node %s of the %s model: IMA %v, boot %v, payload %v", name, mode, n.IMA, n.MeasuredBoot, n.Payload)
				}
			}
		}
	}
}

func TestShape(t *testing.T) {
	quote := func(text string) string { return "quote<" + text + ">" }
	for _, c := range []struct {
		status     int
		body, want string
	}{
		{200, "", "nothing"}, {200, " \n", "nothing"}, {200, "hello", "not JSON"}, {200, "{} {}", "not JSON"}, {200, `{"a":`, "not JSON"},
		{400, `{"code":400,"status":"x","results":{}}`, "error"},
		{200, `{"code":200,"status":"x","results":null}`, "success"},
		{400, `{"code":200,"status":"x","results":{}}`, "{code: number, results: {}, status: text}"},
		{400, `{"code":"400","status":"x","results":{}}`, "{code: text, results: {}, status: text}"},
		{400, `{"code":400,"status":1,"results":{}}`, "{code: number, results: {}, status: number}"},
		{400, `{"code":400,"status":"x","results":{},"more":1}`, "{code: number, more: number, results: {}, status: text}"},
		{400, `{"code":400,"status":"x"}`, "{code: number, status: text}"},
		{200, `{"code":200,"status":"x","results":{"b":1,"a":"y","c":[1,2,"z"],"d":null,"e":true,"f":{"g":1.5}}}`,
			"{a: text, b: number, c: [number text], d: null, e: boolean, f: {g: number}}"},
		{200, `{"code":200,"status":"x","results":{"hash_alg":"sha256","supported_versions":["2.1","2.2"],"quote":"q","pubkey":"-----BEGIN PUBLIC KEY-----\nAA\n"}}`,
			"{hash_alg: sha256, pubkey: PEM public key, quote: quote<q>, supported_versions: [2.1 2.2]}"},
		{200, `{"code":200,"status":"x","results":[]}`, "[]"}, {200, `[]`, "[]"}, {200, `1`, "number"},
	} {
		if got := shape(c.status, []byte(c.body), quote); got != c.want {
			t.Errorf("%d %s: %s, want %s", c.status, c.body, got, c.want)
		}
	}
	for _, c := range []struct {
		numbers []uint
		want    string
	}{{nil, ""}, {[]uint{16}, "16"}, {[]uint{0, 1, 2, 4, 6, 7}, "0-2,4,6-7"}} {
		if got := ranges(c.numbers); got != c.want {
			t.Errorf("ranges of %v: %s, want %s", c.numbers, got, c.want)
		}
	}
	if got := describeQuote("r::", nil, ""); got != "a bad quote" {
		t.Errorf("a bad quote is %q", got)
	}
}

func TestEnding(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{&net.OpError{Op: "remote error", Err: tls.AlertError(116)}, "TLS alert: certificate required"},
		{fmt.Errorf("asking: %w", tls.AlertError(48)), "TLS alert: unknown certificate authority"},
		{&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, endWaiting}, {context.DeadlineExceeded, endWaiting},
		{io.EOF, endClosed}, {fmt.Errorf("the body: %w", io.ErrUnexpectedEOF), endClosed}, {&net.OpError{Op: "read", Err: syscall.ECONNRESET}, endClosed},
		{&url.Error{Op: "Get", Err: syscall.EPIPE}, endClosed}, {errOtherCertificate, "another certificate than the registered one"},
		{errors.New(`malformed HTTP response "x"`), endBad}, {errors.New("fire"), "error: fire"},
	} {
		if got := ending(c.err); got != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}

func TestRequestBytes(t *testing.T) {
	for _, c := range []struct {
		r    request
		want string
	}{
		{request{method: "GET", path: "/x"}, "GET /x HTTP/1.1\r\nHost: h\r\n\r\n"},
		{request{method: "GET", path: "/x", version: "HTTP/1.0", noHost: true, fields: []string{"A: b"}}, "GET /x HTTP/1.0\r\nA: b\r\n\r\n"},
		{post("/x", "ab"), "POST /x HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\nab"},
		{post("/x", "", "A: b"), "POST /x HTTP/1.1\r\nHost: h\r\nA: b\r\nContent-Length: 0\r\n\r\n"},
		{post("/x", "ab", "content-length: 9"), "POST /x HTTP/1.1\r\nHost: h\r\ncontent-length: 9\r\n\r\nab"},
		{request{method: "POST", path: "/x", body: []byte("ab"), chunked: true},
			"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"},
	} {
		if got := string(c.r.bytes("h")); got != c.want {
			t.Errorf("%+v:\n%q, want\n%q", c.r, got, c.want)
		}
	}
	if got := nonceOf("/v2.6/quotes/identity?nonce=%61b&x=y"); got != "ab" {
		t.Errorf("nonce %q, want ab", got)
	}
}

func TestObservation(t *testing.T) {
	ok := Answer{Status: 200, Type: "application/json", Body: "success"}
	for _, c := range []struct {
		o    Observation
		want string
	}{
		{Observation{End: "closed", Note: "after 3 s"}, "closed"},
		{Observation{Answers: []Answer{ok, ok, {Status: 405, Allow: "GET", Body: shapeNothing}}, End: endKept},
			"2 × 200 success; 405 (allows GET) nothing; then usable"},
		{Observation{Answers: []Answer{{Status: 400, Type: "text/plain", Body: shapeNotJSON}}}, "400 text/plain not JSON"},
		{Observation{Answers: []Answer{{Status: 400, Body: "error"}}}, "400 untyped error"},
	} {
		if got := c.o.String(); got != c.want {
			t.Errorf("%+v: %q, want %q", c.o, got, c.want)
		}
	}
	if !(Observation{End: "x", Note: "1"}).Same(Observation{End: "x", Note: "2"}) || (Observation{End: "x"}).Same(Observation{End: "y"}) {
		t.Error("notes are compared, or ends are not")
	}
}

// longReason is longer than the names of cases are shown: a reason is never cut.
var longReason = "so" + strings.Repeat(" and so", 50)

// madeResult has one case of each kind: alike, different with a reason and without, and with a reason that has had its day.
func madeResult() *Result {
	answer := func(status int) Observation {
		return Observation{Answers: []Answer{{Status: status, Body: shapeNothing}}}
	}
	return &Result{
		Agent: "0.0.0", Models: []string{"pull", "push"}, Keylime: "7.0.0",
		Cases: []Case{{Group: "a", Name: "alike"}, {Group: "a", Name: "why|_x_", Reason: longReason}, {Group: "b", Name: "odd"}, {Group: "b", Name: "old",
			Reason: "once"}},
		Own:      Observations{"a: alike": answer(200), "a: why|_x_": answer(1), "b: odd": {End: "closed", Note: "after 1 s"}, "b: old": answer(3)},
		Other:    Observations{"a: alike": {Answers: answer(200).Answers, Note: "n"}, "a: why|_x_": answer(2), "b: odd": answer(5), "b: old": answer(3)},
		Verdicts: []VerdictCase{{Name: "good"}, {Name: "bad"}, {Name: "good", Push: true}},
		Judged: map[string][2]Verdict{
			"verdict in the push model: good": {{Status: "PASS", Payload: "nothing"}, {Status: "PASS", Payload: "nothing"}},
			"verdict: good":                   {{State: "Get Quote", Status: "PASS"}, {State: "Get Quote", Status: "PASS"}},
			"verdict: bad":                    {{State: "Failed", Status: "FAIL", Event: "x.y", Severity: 6, Before: "it starts"}, {State: "Failed", Status: "FAIL"}},
		},
	}
}

func TestDifferences(t *testing.T) {
	r := madeResult()
	want := []Difference{
		{Case: "a: why|_x_", Own: "1 nothing", Other: "2 nothing", Reason: longReason},
		{Case: "b: odd", Own: "closed", Other: "5 nothing"},
		{Case: "b: old", Own: "3 nothing", Other: "3 nothing", Reason: "once", Stale: true},
		{Case: "verdict: bad", Own: "it starts; Failed, FAIL, x.y (severity 6)", Other: "Failed, FAIL"},
	}
	if d := cmp.Diff(want, r.Differences()); d != "" {
		t.Errorf("differences (-want +got):\n%s", d)
	}
	if d := cmp.Diff(want[1:], r.Unexplained()); d != "" {
		t.Errorf("unexplained (-want +got):\n%s", d)
	}
}

func TestMarkdown(t *testing.T) {
	var out strings.Builder
	if err := madeResult().Markdown(&out); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{
		"`keylime_agent` and `keylime_push_model_agent` 0.0.0, with Keylime 7.0.0.", "**7 cases: 4 alike, 3 different.**",
		"| " + longReason + ". | a: why\\|\\_x\\_ |\n", "| **Unexplained**. | b: odd<br>verdict: bad |\n", "| **No difference any more**, but: once. | b: old |\n",
		"## A\n\n| case | both |\n|---|---|\n| alike | 200 nothing |\n", "| odd | **own:** closed (after 1 s)<br>**Rust:** 5 nothing |\n",
		"## The verifier's verdicts\n\n| case | both |\n|---|---|\n| good | Get Quote, PASS |\n",
		"## The verifier's verdicts in the push model\n\n| case | both |\n|---|---|\n| good | PASS; payload: nothing |\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
	out.Reset()
	if err := (&Result{}).Markdown(&out); err != nil || !strings.Contains(out.String(), "None.") {
		t.Errorf("a report of nothing: %v\n%s", err, out.String())
	}
}

func TestRecord(t *testing.T) {
	var out bytes.Buffer
	if err := madeResult().Record(&out); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.Contains(text, `"agent": "0.0.0"`) || !strings.Contains(text, `"b: odd"`) || strings.Contains(text, `"note"`) {
		t.Errorf("the record: %s", text)
	}
	if r := readRecord(t); r.Agent == "" || len(r.Observations) < 500 {
		t.Errorf("the record in testdata is of agent %q, with %d observations", r.Agent, len(r.Observations))
	}
}
