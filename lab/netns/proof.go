package netns

import (
	"context"
	"net/netip"
	"strconv"
	"strings"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/proof"
	"keylab.dev/keylab/netlab"
)

var (
	_ proof.Target = target{}
	_ proof.NATs   = target{}
)

// Mark implements control.Lab.
func (s *supervisor) Mark(ctx context.Context) (control.Mark, error) {
	if err := s.mustBeUp(); err != nil {
		return control.Mark{}, err
	}
	return proof.Mark(ctx, target{s}), nil
}

// Fired implements control.Lab.
func (s *supervisor) Fired(ctx context.Context, f control.Fault, since control.Mark) (control.Proof, error) {
	if err := s.mustBeUp(); err != nil {
		return control.Proof{}, err
	}
	return proof.Fired(ctx, target{s}, f, since)
}

func (t target) DNSAnswers(context.Context) (map[string]uint64, error) {
	t.s.mu.Lock()
	servers := t.s.dns
	t.s.mu.Unlock()
	answers := map[string]uint64{}
	for _, d := range servers {
		for q, count := range d.Queries() {
			answers[q.Code] += count
		}
	}
	return answers, nil
}

// NAT implements proof.NATs.
func (t target) NAT(node string) (netlab.NATStats, bool, error) { return t.s.network.NAT(node) }

func (t target) AgentAddress(_ context.Context, node string) (netip.AddrPort, error) {
	n, err := t.s.node(node)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(n.Address, n.Agent.Port), nil
}

func (t target) AgentProcess(_ context.Context, node string) (proof.Process, error) {
	n, err := t.s.node(node)
	if err != nil {
		return proof.Process{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	p := proof.Process{ID: strconv.Itoa(n.agentStarts)}
	if n.agent == nil {
		p.Detail = "it was never started"
	} else if err := n.agent.ended(); err != nil {
		p.End, p.Detail = n.agent.end(), firstLine(err)
	} else {
		p.Running = true
	}
	return p, nil
}

func (t target) ServiceProcess(_ context.Context, component string) (proof.Process, error) {
	if component == plan.Ingress {
		return t.s.ingressProcess(), nil
	}
	p := t.s.service(component)
	if p == nil {
		return proof.Process{Detail: "it was never started"}, nil
	}
	return p.facts(), nil
}

// firstLine is an error without the log that follows it.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
