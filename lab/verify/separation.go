package verify

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/netlab"
	"keylab.dev/keylab/report"
)

// flow is one probe through the router, and what should come of it.
type flow struct {
	from, to string // hosts
	address  netip.AddrPort
	protocol string
	allowed  bool
}

func (f flow) subject() string {
	return fmt.Sprintf("%s → %s:%d/%s", f.from, f.to, f.address.Port(), f.protocol)
}

// direction names the counter of dropped packets that a flow from one network to the other would raise.
func (v *verification) direction(f flow) string {
	from, _ := v.plan.Host(f.from)
	network := from.Interfaces[0].Network
	other := plan.Cluster
	if network == plan.Cluster {
		other = plan.Services
	}
	return "dropped-" + network + "-to-" + other
}

// separation proves point 3. Its probes count packets, so the three groups run one after the other.
func (v *verification) separation(ctx context.Context) []report.Check {
	var blocked, open []check
	forbidden := map[string]uint64{} // probes, by the counter of the router that they must raise
	for _, f := range v.flows() {
		if f.allowed {
			open = append(open, check{"open", pointSeparation, f.subject(), func(ctx context.Context) (string, error) { return v.open(ctx, f) }})
		} else {
			forbidden[v.direction(f)]++
			blocked = append(blocked, check{"blocked", pointSeparation, f.subject(), func(ctx context.Context) (string, error) { return v.blocked(ctx, f) }})
		}
	}
	var results []report.Check
	for _, c := range open { // one at a time: each must find its own packet in the rule's counter
		results = append(results, c.result(ctx))
	}
	results = append(results, v.countDrops(ctx, blocked, forbidden)...)
	results = append(results, runChecks(ctx, v.pastRouter())...)
	return append(results, runChecks(ctx, v.segments())...)
}

// flows are the probes: every kind of traffic that the allow-list names, and its neighbours that it does not.
func (v *verification) flows() []flow {
	k := v.plan.Keylime
	var flows []flow
	add := func(from, to, protocol string, port uint16) {
		host, _ := v.plan.Host(to)
		address := netip.AddrPortFrom(host.Address(), port)
		source, _ := v.plan.Host(from)
		flows = append(flows, flow{from, to, address, protocol, v.plan.Allows(source.Address(), address, protocol)})
	}
	add(plan.Tenant, plan.Ingress, "tcp", k.Ingress.Port())
	add(plan.Verifier, plan.Ingress, "tcp", k.Ingress.Port())
	add(plan.Tenant, plan.Ingress, "tcp", 80)
	add(plan.Tenant, plan.Ingress, "tcp", 22)
	add(plan.Tenant, plan.ClusterDNS, "udp", 53)
	for i, n := range v.nodes {
		add(plan.Verifier, n.Name, "tcp", n.Agent.Port)
		if i == 0 {
			add(plan.Tenant, n.Name, "tcp", 22)
		}
	}
	for i, n := range v.nodes {
		add(n.Name, plan.Registrar, "tcp", k.Registrar.Port())
		add(n.Name, plan.Verifier, "tcp", k.Verifier.Port())
		if i == 0 {
			add(n.Name, plan.Registrar, "tcp", k.RegistrarTLS.Port())
			add(n.Name, plan.Registrar, "tcp", 22)
			add(n.Name, plan.DNS, "udp", 53)
			add(n.Name, plan.Tenant, "tcp", 22)
		}
	}
	if v.plan.OwnIngress() { // nobody knows of what another one is made, to probe from there
		add(plan.Ingress, plan.Verifier, "tcp", k.Verifier.Port())
	}
	if c := v.plan.Kubernetes; c != nil {
		add(plan.Tenant, c.ControlPlane, "tcp", apiServerPort)
		add(plan.Tenant, v.nodes[0].Name, "tcp", kubeletPort)
	}
	return flows
}

// Ports of Kubernetes that no host of the services network may reach.
const (
	apiServerPort = 6443
	kubeletPort   = 10250
)

// pastRouter checks that flows which the router would let pass do not get through by way of the machine's own addresses in the lab's networks,
// where it has any: else the router would be no more than a suggestion.
func (v *verification) pastRouter() []check {
	gateway, ok := v.target.(HostGateway)
	if !ok {
		return nil
	}
	k := v.plan.Keylime
	var checks []check
	for from, to := range map[string]netip.AddrPort{plan.Tenant: k.Ingress, v.nodes[0].Name: k.Registrar} {
		checks = append(checks, check{"past-router", pointSeparation, fmt.Sprintf("%s → %s", from, to), func(ctx context.Context) (string, error) {
			ctx, cancel := context.WithTimeout(ctx, v.options.ProbeTimeout)
			defer cancel()
			r, via, err := gateway.ProbePast(ctx, from, to)
			if err != nil {
				return "", fmt.Errorf("try to get past the router: %w", err)
			}
			if r.Outcome == netlab.OutcomeOpen || r.Outcome == netlab.OutcomeRefused {
				return "", fmt.Errorf("the machine's own address %s leads past the router: the probe found it %w", via, found(r))
			}
			return fmt.Sprintf("no way by %s, the machine's own address: %s", via, r.Outcome), nil
		}})
	}
	slices.SortFunc(checks, func(a, b check) int { return strings.Compare(a.subject, b.subject) })
	return checks
}

// open checks that an allowed flow is answered and that the router counted it under a rule.
func (v *verification) open(ctx context.Context, f flow) (string, error) {
	rule, _ := v.plan.RuleFor(mustAddress(v.plan, f.from), f.address, f.protocol)
	before, err := v.target.RouterCounters(ctx)
	if err != nil {
		return "", fmt.Errorf("read the router's counters: %w", err)
	}
	r := v.target.Probe(ctx, f.from, f.protocol, f.address)
	after, err := v.target.RouterCounters(ctx)
	if err != nil {
		return "", fmt.Errorf("read the router's counters: %w", err)
	}
	passed := r.Outcome == netlab.OutcomeOpen || rule.Extra && r.Outcome == netlab.OutcomeRefused
	if !passed {
		return "", fmt.Errorf("allowed by rule %s, but the probe found it %w", rule.Name, found(r))
	}
	counted := after[rule.Name] - before[rule.Name]
	if counted == 0 {
		return "", fmt.Errorf("answered, but the router counted nothing under rule %s: the flow went another way", rule.Name)
	}
	return fmt.Sprintf("%s; the router counted %d under %s", r.Outcome, counted, rule.Name), nil
}

// blocked checks that a forbidden flow gets no answer of any kind: a refusal too would have come from the other side.
func (v *verification) blocked(ctx context.Context, f flow) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, v.options.ProbeTimeout)
	defer cancel()
	r := v.target.Probe(ctx, f.from, f.protocol, f.address)
	if r.Outcome != netlab.OutcomeTimeout {
		return "", fmt.Errorf("no rule allows this flow, but the probe was not left without an answer: it found it %w", found(r))
	}
	return "no answer", nil
}

// countDrops runs the probes of forbidden flows and then holds the router's count of dropped packets against them.
func (v *verification) countDrops(ctx context.Context, blocked []check, want map[string]uint64) []report.Check {
	before, beforeErr := v.target.RouterCounters(ctx)
	results := runChecks(ctx, blocked)
	after, afterErr := v.target.RouterCounters(ctx)
	var counts []check
	for _, d := range []string{"dropped-" + plan.Services + "-to-" + plan.Cluster, "dropped-" + plan.Cluster + "-to-" + plan.Services} {
		counts = append(counts, check{"drops-counted", pointSeparation, d, func(context.Context) (string, error) {
			if err := errors.Join(beforeErr, afterErr); err != nil {
				return "", fmt.Errorf("read the router's counters: %w", err)
			}
			got := after[d] - before[d]
			if got < want[d] {
				return "", fmt.Errorf("%d forbidden probes were sent, but the router dropped %d packets: some did not pass by the router", want[d], got)
			}
			return fmt.Sprintf("%d forbidden probes, the router dropped %d packets", want[d], got), nil
		}})
	}
	return append(results, runChecks(ctx, counts)...)
}

// segments checks that no host of one network shares a layer-2 segment with one of the other, and that the same
// method finds two hosts of one network together, so that its "no" means something.
func (v *verification) segments() []check {
	first := v.nodes[0].Name
	var checks []check
	pairs := [][2]string{{plan.Tenant, first}, {plan.Verifier, plan.Ingress}, {first, plan.Registrar}}
	if !v.plan.HasIngress() {
		pairs[1][1] = first
	}
	for _, pair := range pairs {
		checks = append(checks, check{"no-shared-segment", pointSeparation, pair[0] + " | " + pair[1], func(ctx context.Context) (string, error) {
			shared, evidence, err := v.target.SharedSegment(ctx, pair[0], pair[1])
			if err != nil {
				return "", fmt.Errorf("look for a shared segment: %w", err)
			}
			if shared {
				return "", fmt.Errorf("they share a layer-2 segment: %s", evidence)
			}
			return evidence, nil
		}})
	}
	return append(checks, check{"segment-probe-works", pointSeparation, first + " | " + plan.ClusterDNS, func(ctx context.Context) (string, error) {
		shared, evidence, err := v.target.SharedSegment(ctx, first, plan.ClusterDNS)
		if err != nil {
			return "", fmt.Errorf("look for a shared segment: %w", err)
		}
		if !shared {
			return "", fmt.Errorf("two hosts of one network are not found together (%s), so the other answers prove nothing", evidence)
		}
		return evidence, nil
	}})
}

func mustAddress(p plan.Plan, host string) netip.Addr {
	h, _ := p.Host(host)
	return h.Address()
}

// found says as an error what a probe found, with its cause where there is one.
func found(r netlab.ProbeResult) error {
	if r.Err == nil {
		return errors.New(string(r.Outcome))
	}
	return fmt.Errorf("%s: %w", r.Outcome, r.Err)
}
