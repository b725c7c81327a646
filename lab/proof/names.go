package proof

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/verify"
	"keylab.dev/keylab/netlab"
)

// resolveTimeout is how long a DNS server may take; one that is well takes a millisecond, and the resolver would ask again for much longer.
const resolveTimeout = silence

// dnsFailure: the verifier's host cannot resolve a name of the lab's, while a host of the cluster network, which asks another server, can.
func dnsFailure(ctx context.Context, t Target, f control.Fault, since control.Mark) (control.Proof, error) {
	p := t.Plan()
	name := plan.Registrar + "." + p.Lab + ".test" // of a host that there is in every lab
	ask := func(from string) error {
		ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
		defer cancel()
		_, err := t.Resolve(ctx, from, name)
		var why *net.DNSError
		if errors.As(err, &why) { // whose Server is the machine's own, which nobody asked
			return errors.New(why.Err)
		}
		return err
	}
	failed := ask(plan.Verifier)
	if failed == nil {
		return unseen("%s is resolved on the verifier's host", name)
	}
	n, ok := another(t)
	if !ok {
		return unseen("%s is not resolved on the verifier's host (%v), but there is no node that is well to compare with", name, failed)
	}
	if err := ask(n.Name); err != nil {
		return unseen("%s is not resolved on the verifier's host (%v), but neither is it on %s: %v", name, failed, n.Name, err)
	}
	counts, err := t.DNSAnswers(ctx)
	if err != nil {
		return control.Proof{}, fmt.Errorf("read the DNS servers' counts: %w", err)
	}
	code := map[string]string{control.DNSServfail: "SERVFAIL", control.DNSNothing: "(no answer)"}[f.Option("answer")]
	count := counts[code] - since.DNS[code]
	if counts[code] <= since.DNS[code] {
		return unseen("%s is not resolved on the verifier's host (%v), but the DNS servers count no %s since the mark", name, failed, code)
	}
	return seen("%s is not resolved on the verifier's host (%v), but is on %s; the DNS servers count %d more times %s", name, oneLine(failed), n.Name, count, code)
}

// unknownName: the ingress refuses a node's hostname, and counts that, and passes on another's.
func unknownName(ctx context.Context, t Target, f control.Fault, _ control.Mark) (control.Proof, error) {
	n, _ := findNode(t, f.Nodes[0])
	if t.Plan().Keylime.Push() {
		return control.Proof{}, fmt.Errorf("in the push model no hostname leads to an agent")
	}
	before, err := t.Ingress(ctx)
	if err != nil {
		return control.Proof{}, fmt.Errorf("read the ingress' counters: %w", err)
	}
	cert, refused := served(ctx, t, n.Hostname)
	if refused == nil {
		return unseen("the hostname of %s leads to the certificate with serial %s", n.Name, serial(cert))
	}
	after, err := awaitRefusal(ctx, t, before)
	if err != nil {
		return control.Proof{}, err
	}
	if after.Refused <= before.Refused {
		return unseen("the hostname of %s leads nowhere (%v), but the ingress counts no refusal", n.Name, oneLine(refused))
	}
	said := fmt.Sprintf("the ingress refused the hostname of %s (%s) and counts %d refusals, before %d", n.Name, oneLine(refused), after.Refused, before.Refused)
	if other, ok := another(t, n.Name); ok {
		if _, err := served(ctx, t, other.Hostname); err == nil {
			said += "; that of " + other.Name + " leads to an agent"
		}
	}
	return seen("%s", said)
}

// movedAddress: a node's name resolves to another address than at the mark, where an agent answers by that name, and nobody answers at the old one.
func movedAddress(ctx context.Context, t Target, _ control.Fault, since control.Mark) (control.Proof, error) {
	now := t.Plan().Keylime.Ingress
	n, ok := another(t)
	switch {
	case !since.Ingress.IsValid():
		return unseen("nothing is known of the load balancer before: the mark has it not")
	case now == since.Ingress:
		return unseen("the load balancer has the address that it had, %s", now)
	case !ok:
		return unseen("there is no node that is well to ask for")
	}
	addresses, err := t.Resolve(ctx, plan.Verifier, n.Hostname)
	if err != nil {
		return unseen("the hostname of %s is not resolved: %v", n.Name, oneLine(err))
	}
	if len(addresses) != 1 || addresses[0] != now.Addr() {
		return unseen("the hostname of %s still resolves to %v", n.Name, addresses)
	}
	cert, err := served(ctx, t, n.Hostname)
	if err != nil {
		return unseen("%v", err)
	}
	old := aim{plan.Verifier, "tcp", since.Ingress}
	results := probeAll(ctx, t, []aim{old})
	if results[0].Outcome == netlab.OutcomeOpen {
		return unseen("the old address answers still: %s", old)
	}
	return seen("the hostname of %s resolves to %s, before %s, where an agent answers (certificate with serial %s); %s: %s", n.Name, now.Addr(), since.Ingress.Addr(), serial(cert), old, results[0].Outcome)
}

// awaitRefusal reads the ingress' counters until they show a refusal: it may count only after the client has learnt of it.
func awaitRefusal(ctx context.Context, t Target, before verify.IngressCounts) (now verify.IngressCounts, err error) {
	ctx, cancel := context.WithTimeout(ctx, silence/2)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err = t.Ingress(context.WithoutCancel(ctx))
		if err != nil {
			return now, fmt.Errorf("read the ingress' counters: %w", err)
		}
		if now.Refused > before.Refused {
			return now, nil
		}
		select {
		case <-ctx.Done():
			return now, nil
		case <-tick.C:
		}
	}
}

// oneLine is an error without what follows its first line.
func oneLine(err error) string {
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}
