package verify

import (
	"crypto/x509"
	"errors"
	"math/big"
	"strings"
	"testing"

	"keylab.dev/keylab/lab/plan"
)

// A stranger's hostname must lead to no agent, whosever ingress it is. keylab's own says so by a counter; of another one only the certificate can be seen.
func TestRefused(t *testing.T) {
	agent, ingress := &x509.Certificate{Raw: []byte("agent"), SerialNumber: big.NewInt(1)}, &x509.Certificate{Raw: []byte("ingress"), SerialNumber: big.NewInt(2)}
	known := []Node{{AgentCertificate: agent}}
	known[0].Name = "node-1"
	closed := errors.New("the connection was closed")

	for _, test := range []struct {
		name  string
		judge func() (evidence string, err error)
		want  string // a part of the evidence; with "error: " before it, of the error
	}{
		{"own, refused and counted", func() (string, error) { return refusedByOwn("a stranger", nil, closed, 1) }, "no certificate shown, and counted"},
		{"own, refused by somebody else", func() (string, error) { return refusedByOwn("a stranger", nil, closed, 0) }, "error: did not count a refusal: the connection was closed"},
		{"own, led to an agent", func() (string, error) { return refusedByOwn("a stranger", agent, nil, 0) }, "error: got the certificate"},
		{"other, refused", func() (string, error) { return refusedByOther("a stranger", nil, known) }, "no certificate shown"},
		{"other, answers for itself", func() (string, error) { return refusedByOther("a stranger", ingress, known) }, "led to no agent"},
		{"other, led to an agent", func() (string, error) { return refusedByOther("a stranger", agent, known) }, "error: led to the agent of node-1"},
		{"other, an agent whose certificate is not known", func() (string, error) { return refusedByOther("a stranger", ingress, []Node{{}}) }, "error: not known"},
	} {
		t.Run(test.name, func(t *testing.T) {
			evidence, err := test.judge()
			got := evidence
			if err != nil {
				got = "error: " + err.Error()
			}
			want, fails := strings.CutPrefix(test.want, "error: ")
			if fails != (err != nil) || !strings.Contains(got, want) {
				t.Errorf("got %q, want %q in it", got, test.want)
			}
		})
	}
}

// Where the ingress is not keylab's own nobody asks it for counters, and no probe starts from it.
func TestIngressThatCannotBeAsked(t *testing.T) {
	f := newFake(t)
	f.broken = errors.New("asked")
	f.plan.Kubernetes = &plan.Kubernetes{IngressClass: "nginx", ControlPlane: plan.ClusterDNS}
	v := &verification{plan: f.plan, target: f, nodes: f.Nodes()}
	if counts, err := v.ingressCounts(t.Context()); err != nil || counts.Forwarded != nil || counts.Refused != 0 {
		t.Errorf("the counters are %v, error %v; want none, and no question", counts, err)
	}
	for _, flow := range v.flows() {
		if flow.from == plan.Ingress {
			t.Errorf("a probe of %s by %s starts from the ingress", flow.address, flow.protocol)
		}
	}
}
