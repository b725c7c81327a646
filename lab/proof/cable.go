package proof

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/verify"
	"keylab.dev/keylab/netlab"
)

// referenceOf is a host of the cluster network to compare a node with: another node that is well, or the ingress.
func referenceOf(t Target, n verify.Node) (string, bool) {
	if other, ok := another(t, n.Name); ok {
		return other.Name, true
	}
	return plan.Ingress, t.Plan().HasIngress()
}

// datagrams is how many are sent to learn what becomes of them.
const datagrams = 25

// askDNS are so many datagrams from a host to the cluster's DNS server.
func askDNS(t Target, from string) []aim {
	dns, _ := t.Plan().Host(plan.ClusterDNS)
	return slices.Repeat([]aim{{from, "udp", netip.AddrPortFrom(dns.Address(), 53)}}, datagrams)
}

// probeInTurn makes probes of two kinds, as many of each, in turn, so that what holds up some of the first holds up some of the second: first all the results
// of the first kind, then those of the second.
func probeInTurn(ctx context.Context, t Target, first, second []aim, timeout time.Duration) ([]aim, []netlab.ProbeResult) {
	aims := make([]aim, 0, 2*len(first))
	for i := range first {
		aims = append(aims, first[i], second[i])
	}
	results := probeFor(ctx, t, aims, timeout)
	sorted := make([]netlab.ProbeResult, len(results))
	for i := range first {
		sorted[i], sorted[len(first)+i] = results[2*i], results[2*i+1]
	}
	return append(first, second...), sorted
}

// partition: the node gets no answer from anybody, while another host does from the same ones.
func partition(ctx context.Context, t Target, f control.Fault, _ control.Mark) (control.Proof, error) {
	n, _ := findNode(t, f.Nodes[0])
	if off(n) {
		return unseen("%s is off, not cut off", n.Name)
	}
	reference, ok := referenceOf(t, n)
	if !ok {
		return unseen("there is no host to compare %s with", n.Name)
	}
	registrar := t.Plan().Keylime.Registrar
	aims := append(askDNS(t, n.Name), aim{n.Name, "tcp", registrar}) // many, or a cable that loses some would look like one that is cut
	own := len(aims)
	aims = append(append(aims, askDNS(t, reference)...), aim{reference, "tcp", registrar})
	results := probeAll(ctx, t, aims)
	for i, r := range results[:own] {
		// EPERM: its own firewall drops what it sends.
		if r.Outcome != netlab.OutcomeTimeout && r.Outcome != netlab.OutcomeUnreachable && !errors.Is(r.Err, syscall.EPERM) {
			return unseen("%s: %s", aims[i], r.Outcome)
		}
	}
	for i, r := range results[own:] {
		if answered(r) {
			return seen("nobody answers %s (%d tries; %s, %s), while %s is %s after %s", n.Name, own,
				outcomes(aims[:1], results[:1]), outcomes(aims[own-1:own], results[own-1:own]), aims[own+i], r.Outcome, r.Elapsed.Round(time.Microsecond))
		}
	}
	return unseen("nobody answers %s, but nobody answers %s either", n.Name, reference)
}

// latency: no datagram with which the node asks the DNS server is answered sooner than the delay allows, twice, while another host gets one that is. The
// quickest of many counts, since a busy machine makes some take longer; and nobody sends a datagram again, which would look like a delay.
func latency(ctx context.Context, t Target, f control.Fault, _ control.Mark) (control.Proof, error) {
	n, _ := findNode(t, f.Nodes[0])
	least := 2 * (f.Duration("delay") - f.Duration("jitter"))
	if least <= 0 {
		return unseen("a jitter as large as the delay leaves no time that a connection takes at least")
	}
	reference, ok := referenceOf(t, n)
	if !ok {
		return unseen("there is no host to compare %s with", n.Name)
	}
	aims, results := probeInTurn(ctx, t, askDNS(t, n.Name), askDNS(t, reference), least+silence)
	own, ownOK := quickest(results[:datagrams])
	other, otherOK := quickest(results[datagrams:])
	switch {
	case !ownOK:
		return unseen("none of %d datagrams of %s was answered", datagrams, n.Name)
	case !otherOK:
		return unseen("none of %d datagrams of %s was answered, to compare with", datagrams, reference)
	case own < least || other >= least:
		return unseen("the quickest answer took %s, to %s %s", own, reference, other)
	}
	return seen("%s: the quickest of %d answers took %s, and can take no less than %s; to %s it took %s", aims[0], datagrams, own, least, reference, other)
}

// quickest is the shortest time of those that were answered.
func quickest(results []netlab.ProbeResult) (least time.Duration, ok bool) {
	for _, r := range results {
		if answered(r) && (!ok || r.Elapsed < least) {
			least, ok = r.Elapsed, true
		}
	}
	return least.Round(time.Microsecond), ok
}

// loss: of many datagrams with which the node asks the DNS server some stay without an answer, and not all; another host gets all its answers.
func loss(ctx context.Context, t Target, f control.Fault, _ control.Mark) (control.Proof, error) {
	n, _ := findNode(t, f.Nodes[0])
	if off(n) {
		return unseen("%s is off", n.Name)
	}
	reference, ok := referenceOf(t, n)
	if !ok {
		return unseen("there is no host to compare %s with", n.Name)
	}
	aims, results := probeInTurn(ctx, t, askDNS(t, n.Name), askDNS(t, reference), silence)
	own, other := unanswered(results[:datagrams]), unanswered(results[datagrams:])
	switch {
	case own == 0 || other > 0:
		return unseen("%d of %d datagrams of %s to %s were not answered, of %s %d", own, datagrams, n.Name, aims[0].to, reference, other)
	case own == datagrams && f.Percent("percent") < 100:
		return unseen("none of %d datagrams of %s to %s was answered: that is more than a loss of %s percent", datagrams, n.Name, aims[0].to, f.Option("percent"))
	}
	return seen("%d of %d datagrams of %s to %s were not answered, while all %d of %s were", own, datagrams, n.Name, aims[0].to, datagrams, reference)
}

// unanswered counts those that nobody answered in time.
func unanswered(results []netlab.ProbeResult) (n int) {
	for _, r := range results {
		if r.Outcome == netlab.OutcomeTimeout {
			n++
		}
	}
	return n
}
