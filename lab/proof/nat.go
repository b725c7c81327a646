package proof

import (
	"context"
	"errors"
	"net/netip"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/netlab"
)

// NATs is what a [Target] can tell whose nodes can be put behind NAT routers.
type NATs interface {
	// NAT is what a node's NAT router has done; ok is false when the node is behind none.
	NAT(node string) (stats netlab.NATStats, ok bool, err error)
}

// nat: another host gets no answer from the node, not even that nothing listens, while it does from others; the node itself gets answers from the
// services that it may ask; and the NAT router has counted these connections among those that it translated.
func nat(ctx context.Context, t Target, f control.Fault, _ control.Mark) (control.Proof, error) {
	routers, ok := t.(NATs)
	if !ok {
		return control.Proof{}, errors.New("no node of this lab can be behind a NAT router")
	}
	n, _ := findNode(t, f.Nodes[0])
	before, ok, err := routers.NAT(n.Name)
	switch {
	case err != nil:
		return control.Proof{}, err
	case !ok:
		return unseen("%s is behind no NAT router", n.Name)
	case off(n):
		return unseen("%s is off", n.Name)
	}
	reference, ok := referenceOf(t, n)
	if !ok {
		return unseen("there is no host to compare %s with", n.Name)
	}
	agent, err := t.AgentAddress(ctx, n.Name)
	if err != nil {
		return control.Proof{}, err
	}
	dns, _ := t.Plan().Host(plan.ClusterDNS)
	in := []aim{{reference, "tcp", agent}}
	out := []aim{{reference, "udp", netip.AddrPortFrom(dns.Address(), 53)}, {n.Name, "tcp", t.Plan().Keylime.Registrar}}
	if t.Plan().Keylime.Push() {
		out = append(out, aim{n.Name, "tcp", t.Plan().Keylime.Verifier})
	}
	results := probeAll(ctx, t, append(in, out...))
	if results[0].Outcome != netlab.OutcomeTimeout {
		return unseen("%s: %s", in[0], results[0].Outcome)
	}
	for i, r := range results[1:] {
		if !answered(r) {
			return unseen("%s: %s", out[i], r.Outcome)
		}
	}
	after, ok, err := routers.NAT(n.Name)
	if err != nil {
		return control.Proof{}, err
	}
	if made := uint64(len(out) - 1); !ok || after.Translated < before.Translated+made || after.Refused == before.Refused {
		return unseen("the NAT router of %s has not seen these connections: %d translated and %d packets refused, before %d and %d",
			n.Name, after.Translated, after.Refused, before.Translated, before.Refused)
	}
	return seen("nobody answers %s, while %s; the NAT router has translated %d connections of %s, and refused %d packets for it",
		in[0], outcomes(out, results[1:]), after.Translated, after.Inner, after.Refused)
}
