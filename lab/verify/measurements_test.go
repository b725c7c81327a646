package verify

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/plan"
)

// measuring is a lab whose verifier also answers for policies.
type measuring struct {
	*fake
	policies map[string]string // the answers' results, JSON, by path
	server   *httptest.Server
}

func (m *measuring) Verifier() *keylime.VerifierClient {
	return keylime.NewVerifierClient(m.server.Listener.Addr().String(), trust(m.server), nil)
}

const bootState = `{"has_secureboot":true}`

// newMeasuring is a lab of a node that measures files and its boot, and of one that does not.
func newMeasuring(t *testing.T) (*measuring, string) {
	t.Helper()
	m := &measuring{fake: newFake(t), policies: map[string]string{}}
	m.plan.Keylime.Options = map[string]map[string]string{"verifier": {"measured_boot_policy_name": "example"}}
	m.nodes[0].IMA = &plan.IMA{Template: "ima-ng", Files: []plan.IMAFile{{Path: "/a b", Digest: "sha256:aa"}, {Path: "/c", Digest: "sha256:cc", Later: true}}}
	m.nodes[0].MeasuredBoot = &plan.MeasuredBoot{}
	uuid := m.nodes[0].UUID
	m.agents[uuid]["tpm_policy"] = `{"mask": "0xffff"}`
	m.agents[uuid]["has_mb_refstate"] = 1
	m.hold(t, uuid, map[string][]string{"boot_aggregate": {"00"}, "/a_b": {"aa"}, "/c": {"cc"}}, nil)
	m.boot(t, uuid, bootState)
	m.server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		answer, ok := m.policies[strings.TrimPrefix(r.URL.Path, "/v2.6")]
		m.mu.Unlock()
		if !ok {
			m.verifier.Config.Handler.ServeHTTP(w, r)
			return
		}
		_, _ = w.Write([]byte(`{"code": 200, "status": "Success", "results": ` + answer + `}`))
	}))
	t.Cleanup(m.server.Close)
	return m, uuid
}

// hold has the verifier hold a runtime policy.
func (m *measuring) hold(t *testing.T, uuid string, digests map[string][]string, excludes []string) {
	t.Helper()
	m.answer(t, "/allowlists/"+uuid, "runtime_policy", map[string]any{"digests": digests, "excludes": excludes})
}

func (m *measuring) boot(t *testing.T, uuid, state string) {
	t.Helper()
	m.answer(t, "/mbpolicies/"+uuid, "mb_policy", json.RawMessage(state))
}

// answer is JSON inside a JSON string.
func (m *measuring) answer(t *testing.T, path, field string, value any) {
	t.Helper()
	inner, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	outer, err := json.Marshal(map[string]string{field: string(inner)})
	if err != nil {
		t.Fatal(err)
	}
	m.policies[path] = string(outer)
}

func TestPolicies(t *testing.T) {
	for name, test := range map[string]struct {
		bend func(t *testing.T, m *measuring, uuid string)
		says string // "" when the check passes
	}{
		"in order": {func(*testing.T, *measuring, string) {}, ""},
		"a file that nobody asked for": {func(t *testing.T, m *measuring, uuid string) {
			m.hold(t, uuid, map[string][]string{"/a_b": {"aa"}, "/c": {"cc"}, "/d": {"dd"}}, nil)
		}, "allows /d"},
		"another content too": {func(t *testing.T, m *measuring, uuid string) {
			m.hold(t, uuid, map[string][]string{"/a_b": {"aa", "bb"}, "/c": {"cc"}}, nil)
		}, "allows /a_b with the digest bb"},
		"a file is missing": {func(t *testing.T, m *measuring, uuid string) {
			m.hold(t, uuid, map[string][]string{"/a_b": {"aa"}}, nil)
		}, "does not allow /c"},
		"files are left out": {func(t *testing.T, m *measuring, uuid string) {
			m.hold(t, uuid, map[string][]string{"/a_b": {"aa"}, "/c": {"cc"}}, []string{"/tmp/.*"})
		}, "leaves out"},
		"no runtime policy": {func(_ *testing.T, m *measuring, uuid string) {
			m.policies["/allowlists/"+uuid] = `{"runtime_policy": ""}`
		}, "ask the verifier for the runtime policy of"},
		"no reference state":      {func(t *testing.T, m *measuring, uuid string) { m.boot(t, uuid, "{}") }, "holds no reference state"},
		"no state for this agent": {func(_ *testing.T, m *measuring, uuid string) { m.agents[uuid]["has_mb_refstate"] = 0 }, "holds no reference state"},
		"PCR 10 is not asked for": {func(_ *testing.T, m *measuring, uuid string) { m.agents[uuid]["tpm_policy"] = `{"mask": "0xfbff"}` }, "does not ask for PCR 10"},
		"PCR 14 is not asked for": {func(_ *testing.T, m *measuring, uuid string) { m.agents[uuid]["tpm_policy"] = `{"mask": "0xbfff"}` }, "PCRs 0-9 and 14"},
		"no TPM policy":           {func(_ *testing.T, m *measuring, uuid string) { m.agents[uuid]["tpm_policy"] = "" }, "TPM policy"},
		"unknown agent":           {func(_ *testing.T, m *measuring, uuid string) { delete(m.agents, uuid) }, "ask the verifier for agent"},
	} {
		t.Run(name, func(t *testing.T) {
			m, uuid := newMeasuring(t)
			test.bend(t, m, uuid)
			result := Run(t.Context(), m, options)
			seen := 0
			for _, c := range result.Checks {
				switch c.ID {
				case "ima-list", "boot-log": // this lab has no agents
					if c.Passed() || c.Subject != "node-1" {
						t.Errorf("%+v", c)
					}
				case "policies":
					seen++
					if c.Subject != "node-1" || c.Passed() != (test.says == "") || !strings.Contains(c.Error, test.says) {
						t.Errorf("%+v, want %q", c, test.says)
					}
					if c.Passed() && !strings.Contains(c.Evidence, "exactly the 2 files of the specification and a reference state, judged by the policy example; mask 0xffff") {
						t.Errorf("evidence %q", c.Evidence)
					}
				}
			}
			if seen != 1 {
				t.Errorf("%d checks of policies", seen)
			}
		})
	}
}

// A log is compared with the quote and with the TPM; each can differ by itself.
func TestSameAsTPM(t *testing.T) {
	good, bad := []byte("0123456789abcdef0123456789abcdef"), make([]byte, 32)
	goodQuoted := append(good[:32:32], good[:16]...) // the quote is of another bank than the one read from the TPM
	for name, test := range map[string]struct {
		quoted, held []byte
		covered      uint
		err          error
		says         string
	}{
		"all alike":            {quoted: goodQuoted, held: good, covered: 10},
		"quoted otherwise":     {quoted: bad, held: good, covered: 10, says: "PCR 10 is quoted as 0000000000000000…, the log gives"},
		"held otherwise":       {quoted: goodQuoted, held: bad, covered: 10, says: "PCR 10 is 0000000000000000… in the TPM, the log gives"},
		"not quoted":           {quoted: goodQuoted, held: good, covered: 9, says: "does not cover PCR 10"},
		"TPM does not say":     {quoted: goodQuoted, held: good, covered: 10, err: errors.New("the TPM is off"), says: "the TPM is off"},
		"TPM cannot be asked":  {quoted: goodQuoted, covered: 10, says: "cannot be read"},
		"TPM has another bank": {quoted: goodQuoted, held: good[:20], covered: 10, says: "in the TPM"},
	} {
		t.Run(name, func(t *testing.T) {
			n := Node{}
			if test.held != nil {
				n.PCRs = func(context.Context, ...int) (map[int][]byte, error) { return map[int][]byte{10: test.held}, test.err }
			}
			quote := &agent.Quote{Hash: tpm2.TPMAlgSHA384, PCRs: []uint{test.covered}, Values: [][]byte{test.quoted}}
			err := sameAsTPM(t.Context(), n, quote, func(bank crypto.Hash) (map[int][]byte, error) {
				return map[int][]byte{10: map[crypto.Hash][]byte{crypto.SHA256: good, crypto.SHA384: goodQuoted}[bank]}, nil
			})
			if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, want %q", err, test.says)
			}
		})
	}
}
