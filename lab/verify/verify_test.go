package verify

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/netlab"
)

// Every check can fail: for each way in which a lab can be wrong, the checks that must see it, and no others, do.
// Routing, which this fake lab cannot show, fails always and is looked at by the tests of whole labs.
func TestChecks(t *testing.T) {
	tests := []struct {
		name   string
		bend   func(t *testing.T, f *fake)
		failed []string // "id subject"; * at the end stands for any rest
		says   string   // a part of one of the messages
	}{
		{"in order", func(*testing.T, *fake) {}, nil, ""},

		{"not registered", func(_ *testing.T, f *fake) { delete(f.records, f.nodes[1].UUID) },
			[]string{"registered node-2", "ek-from-tpm node-2", "ek-certificate node-2", "tenant-accepted node-2", "distinct-eks all nodes", "distinct-aks all nodes", "certificate node-2", "quote node-2"}, "said the service"},
		{"another's hostname", func(_ *testing.T, f *fake) { f.record(1)["ip"] = f.nodes[0].Hostname }, []string{"registered node-2"}, "not its own"},
		{"another port", func(_ *testing.T, f *fake) { f.record(0)["port"] = 9002 }, []string{"registered node-1"}, ":9002"},
		{"an agent of nobody", func(_ *testing.T, f *fake) { f.records["nobody"] = map[string]any{} }, []string{"no-strangers registrar"}, "agent nobody"},
		{"never started", func(_ *testing.T, f *fake) {
			delete(f.records, f.nodes[1].UUID)
			f.nodes[1].UUID, f.nodes[1].TPM = "", func(context.Context) (TPMIdentity, error) { return TPMIdentity{}, errors.New("the TPM is off") }
		}, []string{"registered node-2", "uuid node-2", "ek-from-tpm node-2", "ek-certificate node-2", "tenant-accepted node-2", "distinct-*", "attested node-2"}, "never started"},

		{"another TPM behind the agent", func(_ *testing.T, f *fake) {
			f.nodes[0].bend(func(id *TPMIdentity) { id.EKPublic[0]++; id.EKSPKI[40]++ })
		}, []string{"uuid node-1", "ek-from-tpm node-1", "ek-certificate node-1"}, "another EK"},
		{"no certificate in the TPM", func(_ *testing.T, f *fake) {
			f.nodes[0].bend(func(id *TPMIdentity) { id.Certificate = nil })
		}, []string{"ek-certificate node-1"}, "the TPM holds no EK certificate"},
		{"no certificate at the registrar", func(_ *testing.T, f *fake) { f.record(0)["ekcert"] = "" },
			[]string{"ek-certificate node-1", "tenant-accepted node-1"}, "holds no EK certificate"},
		{"a certificate swapped", func(_ *testing.T, f *fake) { f.record(0)["ekcert"] = f.record(1)["ekcert"] },
			[]string{"ek-certificate node-1"}, "not the one in the TPM's NV"},
		{"a certificate for another key", func(t *testing.T, f *fake) { f.certify(t, 0, f.ca, "node-1", true) },
			[]string{"ek-certificate node-1"}, "for another key"},
		{"a stranger's certificate", func(t *testing.T, f *fake) {
			stranger, err := ekca.Create(t.TempDir()+"/stranger", f.ca.Config())
			if err != nil {
				t.Fatal(err)
			}
			f.certify(t, 0, stranger, "node-1", false)
		}, []string{"ek-certificate node-1", "tenant-accepted node-1"}, "does not verify against the lab's EK CA"},
		{"a certificate issued to another", func(t *testing.T, f *fake) { f.certify(t, 0, f.ca, "node-2", false) },
			[]string{"ek-certificate node-1"}, "issued this certificate for node-2"},
		{"a revoked certificate", func(t *testing.T, f *fake) {
			issued, err := f.ca.Issued()
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range issued {
				if r.Label == "node-2" {
					if err := f.ca.Revoke(r.Serial, 1); err != nil {
						t.Fatal(err)
					}
				}
			}
		}, []string{"ek-certificate node-2"}, "revoked"},
		{"rotated", func(t *testing.T, f *fake) { f.rotate(t) }, nil, ""},
		{"a node that was passed over", func(t *testing.T, f *fake) {
			f.rotate(t)
			f.certify(t, 1, f.ca, "node-2", false)
		}, []string{"tenant-accepted node-2", "active-ca node-2"}, "not by the active CA ca-2"},
		{"the retired CA still trusted", func(t *testing.T, f *fake) {
			f.rotate(t)
			if _, err := f.ca.ExportStoreOnly(f.store, f.ca.Issuer()); err != nil {
				t.Fatal(err)
			}
		}, []string{"retired-ca ca-1"}, "still has keys of the retired ca-1"},
		{"a thief of the active CA's key", func(t *testing.T, f *fake) {
			f.rotate(t)
			id, err := f.nodes[0].TPM(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			public, err := x509.ParsePKIXPublicKey(id.EKSPKI)
			if err != nil {
				t.Fatal(err)
			}
			cert, err := f.next.Issue(ekca.Request{Public: public, Unrecorded: true})
			if err != nil {
				t.Fatal(err)
			}
			f.nodes[0].bend(func(id *TPMIdentity) { id.Certificate = cert.Raw })
			f.record(0)["ekcert"] = b64(cert.Raw)
		}, []string{"ek-certificate node-1", "active-ca node-1"}, "does not know this certificate"},
		{"the tenant was never asked", func(_ *testing.T, f *fake) { f.nodes[0].Enrolled = Enrolment{} }, []string{"tenant-accepted node-1"}, "never asked"},
		{"the tenant refused", func(_ *testing.T, f *fake) { f.nodes[0].Enrolled = Enrolment{Done: true, Message: "nope"} }, []string{"tenant-accepted node-1"}, "nope"},
		{"the tenant did not check", func(_ *testing.T, f *fake) { f.nodes[0].Enrolled.EKChecked = false }, []string{"tenant-accepted node-1"}, "does not report that it checked"},
		{"another certificate since the tenant accepted", func(t *testing.T, f *fake) {
			f.nodes[1].Enrolled.At = time.Now()
			f.certify(t, 1, f.ca, "node-2", false)
		}, []string{"tenant-accepted node-2"}, "before its EK certificate was issued"},
		{"the tenant need not check", func(_ *testing.T, f *fake) { f.plan.Keylime.RequireEKCert = false }, []string{"tenant-accepted *"}, "requireEKCert is false"},
		{"the CA is gone from the store", func(t *testing.T, f *fake) {
			if err := os.RemoveAll(f.store); err != nil {
				t.Fatal(err)
			}
		}, []string{"tenant-accepted *"}, "tpm_cert_store"},
		{"one EK twice", func(_ *testing.T, f *fake) { f.record(1)["ek_tpm"] = f.record(0)["ek_tpm"] },
			[]string{"distinct-eks all nodes", "ek-from-tpm node-2"}, "node-1 and node-2 share one"},
		{"one AK twice", func(_ *testing.T, f *fake) { f.record(1)["aik_tpm"] = f.record(0)["aik_tpm"] }, []string{"distinct-aks all nodes"}, "share one"},

		{"the ingress is shut", func(_ *testing.T, f *fake) {
			f.probe = f.except(netlab.OutcomeTimeout, func(x flow) bool { return x.address == f.plan.Keylime.Ingress })
		}, []string{"open tenant → ingress:443/tcp", "open verifier → ingress:443/tcp"}, "allowed by rule services-to-ingress"},
		{"a leak that is refused", func(_ *testing.T, f *fake) {
			f.probe = f.except(netlab.OutcomeRefused, func(x flow) bool { return x.from == plan.Verifier && x.address.Port() == 9002 })
		}, []string{"blocked verifier → node-1:9002/tcp", "blocked verifier → node-2:9002/tcp"}, "not left without an answer"},
		{"no route", func(_ *testing.T, f *fake) {
			f.probe = f.except(netlab.OutcomeUnreachable, func(x flow) bool { return x.from == "node-2" && x.address.Port() == 8881 })
		}, []string{"blocked node-2 → verifier:8881/tcp"}, "unreachable"},
		{"a way around the router", func(_ *testing.T, f *fake) { f.uncounted = true }, []string{"open *", "drops-counted *"}, "did not pass by the router"},
		{"one segment", func(_ *testing.T, f *fake) { f.shared = func(string, string) (bool, error) { return true, nil } },
			[]string{"no-shared-segment *"}, "share a layer-2 segment"},
		{"a blind probe", func(_ *testing.T, f *fake) { f.shared = func(string, string) (bool, error) { return false, nil } },
			[]string{"segment-probe-works *"}, "prove nothing"},

		{"no attestation", func(_ *testing.T, f *fake) { f.frozen = true }, []string{"attested *"}, "stayed at 1"},
		{"given up", func(_ *testing.T, f *fake) {
			f.frozen = true
			f.agents[f.nodes[0].UUID]["operational_state"] = int(keylime.InvalidQuote)
			f.agents[f.nodes[0].UUID]["last_event_id"] = "why"
			delete(f.agents, f.nodes[1].UUID)
		}, []string{"attested *"}, `Invalid Quote, last event "why"`},
		{"a dead TPM", func(_ *testing.T, f *fake) { f.nodes[1].Fault = "tpm dead: killed" }, []string{"attested node-2"}, "tpm dead: killed"},

		{"a payload in order", func(_ *testing.T, f *fake) { f.deliver() }, nil, ""},
		{"another payload", func(_ *testing.T, f *fake) { f.bendPayload(func(p *Payload) { p.Found.SHA256 = "abd" }) },
			[]string{"payload-delivered node-1"}, "another payload is there (sha256 abd, 3 bytes) than was meant for this node (sha256 abc, 3 bytes)"},
		{"no payload", func(_ *testing.T, f *fake) { f.bendPayload(func(p *Payload) { p.Found = nil }) },
			[]string{"payload-delivered node-1"}, "`keylab node enrol node-1`"},
		{"a payload on a disk", func(_ *testing.T, f *fake) { f.bendPayload(func(p *Payload) { p.Tmpfs = false }) },
			[]string{"payload-delivered node-1"}, "not in a tmpfs"},
		{"a payload for all to read", func(_ *testing.T, f *fake) { f.bendPayload(func(p *Payload) { p.Private = false }) },
			[]string{"payload-delivered node-1"}, "other users can read it"},
		{"a payload for nobody", func(_ *testing.T, f *fake) {
			f.deliver()
			f.holds(1, Payload{Found: &Digest{SHA256: "abc", Size: 3}})
		}, []string{"payload-withheld node-2"}, "a payload is there (sha256 abc, 3 bytes), although none is meant for it"},
		{"a payload for a node that was refused", func(_ *testing.T, f *fake) {
			f.deliver()
			f.nodes[0].Enrolled = Enrolment{Done: true, Message: "nope"}
		}, []string{"payload-withheld node-1", "tenant-accepted node-1"}, "although the tenant refused it"},
		{"a payload before a good quote", func(_ *testing.T, f *fake) {
			f.deliver()
			f.frozen = true
			f.agents[f.nodes[0].UUID]["attestation_count"] = 0
		}, []string{"payload-delivered node-1", "attested *"}, "although the verifier has had no good quote"},
		{"no payload before a good quote", func(_ *testing.T, f *fake) {
			f.bendPayload(func(p *Payload) { p.Found = nil })
			delete(f.agents, f.nodes[0].UUID)
		}, []string{"payload-delivered node-1", "attested node-1"}, "nothing is there: the verifier, which has half of its key, has had no good quote"},
		{"no look at a payload", func(_ *testing.T, f *fake) {
			f.plan.Nodes[0].Payload, f.nodes[0].Payload = &plan.Payload{}, &plan.Payload{}
		}, []string{"payload-delivered node-1", "payload-withheld node-2"}, "this node has no memory"},

		// A check that could not run is a failure.
		{"no registrar", func(_ *testing.T, f *fake) { f.registrar.Close() },
			[]string{"registered *", "no-strangers *", "ek-*", "tenant-accepted *", "distinct-eks *", "distinct-aks *"}, "registrar"},
		{"no verifier", func(_ *testing.T, f *fake) { f.verifier.Close() }, []string{"attested *"}, "ask the verifier"},
		{"no tools", func(_ *testing.T, f *fake) { f.broken = errors.New("netlink said no") },
			[]string{"open *", "blocked *", "drops-counted *", "no-shared-segment *", "segment-probe-works *", "dns *"}, "netlink said no"},
		{"no TPM", func(_ *testing.T, f *fake) {
			f.nodes[0].TPM = func(context.Context) (TPMIdentity, error) { return TPMIdentity{}, errors.New("the TPM is off") }
		}, []string{"uuid node-1", "ek-from-tpm node-1", "ek-certificate node-1"}, "the TPM is off"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			test.bend(t, f)
			result := Run(t.Context(), f, options)
			if result.Passed() {
				t.Error("a lab without agents passes")
			}
			said := test.says == ""
			seen := map[string]bool{}
			for _, c := range result.Checks {
				name := c.ID + " " + c.Subject
				if seen[name] {
					t.Errorf("two checks are named %s", name)
				}
				seen[name] = true
				if slices.Contains([]string{"certificate", "quote", "unknown-uuid", "no-name"}, c.ID) {
					if c.Passed() {
						t.Errorf("%s passed without agents", name)
					}
					continue
				}
				if want := slices.ContainsFunc(test.failed, func(p string) bool { return matches(p, name) }); want == c.Passed() {
					t.Errorf("%s: %s %q", name, c.Status, c.Error)
				}
				said = said || strings.Contains(c.Error, test.says)
			}
			if !said {
				t.Errorf("no message says %q", test.says)
			}
			for _, p := range test.failed {
				found := false
				for name := range seen {
					found = found || matches(p, name)
				}
				if !found {
					t.Errorf("no check %s was made", p)
				}
			}
		})
	}
}

func matches(pattern, name string) bool {
	start, any := strings.CutSuffix(pattern, "*")
	return name == pattern || any && strings.HasPrefix(name, start)
}

// record is the registrar's record of a node.
func (f *fake) record(node int) map[string]any { return f.records[f.nodes[node].UUID] }

// certify gives a node another EK certificate, in its TPM and at the registrar.
func (f *fake) certify(t *testing.T, node int, ca *ekca.CA, label string, otherKey bool) {
	t.Helper()
	old, err := f.nodes[node].TPM(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.ParsePKIXPublicKey(old.EKSPKI)
	if err != nil {
		t.Fatal(err)
	}
	if otherKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		public = key.Public()
	}
	cert, err := ca.Issue(ekca.Request{Public: public, Label: label})
	if err != nil {
		t.Fatal(err)
	}
	f.nodes[node].bend(func(id *TPMIdentity) { id.Certificate = cert.Raw })
	f.record(node)["ekcert"] = b64(cert.Raw)
}

// except is the plan's outcome, but another one for some flows.
func (f *fake) except(outcome netlab.Outcome, these func(flow) bool) func(flow) netlab.Outcome {
	return func(x flow) netlab.Outcome {
		source, _ := f.plan.Host(x.from)
		switch {
		case these(x):
			return outcome
		case f.plan.Allows(source.Address(), x.address, x.protocol):
			return netlab.OutcomeOpen
		}
		return netlab.OutcomeTimeout
	}
}
