package proof

import (
	"context"
	"fmt"
	"net/netip"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/netlab"
)

// serviceDown: the service's process was stopped, and nobody answers at its port.
func serviceDown(ctx context.Context, t Target, f control.Fault, _ control.Mark) (control.Proof, error) {
	return endedService(ctx, t, f, EndStopped)
}

// serviceKilled: likewise of one that was killed.
func serviceKilled(ctx context.Context, t Target, f control.Fault, _ control.Mark) (control.Proof, error) {
	return endedService(ctx, t, f, EndKilled)
}

func endedService(ctx context.Context, t Target, f control.Fault, end End) (control.Proof, error) {
	process, err := t.ServiceProcess(ctx, f.Component)
	if err != nil {
		return control.Proof{}, err
	}
	if process.Running {
		return unseen("the %s runs", f.Component)
	}
	if process.End != end {
		return unseen("the %s does not run, but was not %s: %s", f.Component, end, process.Detail)
	}
	port, said, err := servicePort(ctx, t, f.Component)
	if err != nil {
		return control.Proof{}, err
	}
	if port == netlab.OutcomeOpen {
		return unseen("the process of the %s does not run (%s), but its port is open: %s", f.Component, process.Detail, said)
	}
	return seen("the process of the %s does not run (%s), and nobody answers for it: %s", f.Component, process.Detail, said)
}

// serviceRestart: the service is another process than before, and its port is open.
func serviceRestart(ctx context.Context, t Target, f control.Fault, since control.Mark) (control.Proof, error) {
	process, err := t.ServiceProcess(ctx, f.Component)
	if err != nil {
		return control.Proof{}, err
	}
	port, said, err := servicePort(ctx, t, f.Component)
	if err != nil {
		return control.Proof{}, err
	}
	if port != netlab.OutcomeOpen {
		return unseen("the %s does not answer: %s", f.Component, said)
	}
	return restarted("the "+f.Component, process, since.Processes[f.Component], said)
}

// servicePort probes a service from where the tenant stands, and at the same time the DNS server there, so that silence means something.
func servicePort(ctx context.Context, t Target, component string) (netlab.Outcome, string, error) {
	p := t.Plan()
	to := p.Keylime.Registrar
	if component == plan.Verifier {
		to = p.Keylime.Verifier
	}
	dns, _ := p.Host(plan.DNS)
	aims := []aim{{plan.Tenant, "tcp", to}, {plan.Tenant, "udp", netip.AddrPortFrom(dns.Address(), 53)}}
	results := probeAll(ctx, t, aims)
	switch port := results[0]; port.Outcome {
	case netlab.OutcomeOpen, netlab.OutcomeRefused:
		return port.Outcome, outcomes(aims[:1], results[:1]), nil
	case netlab.OutcomeFailed:
		return "", "", fmt.Errorf("probe the %s: %w", component, port.Err)
	}
	if !answered(results[1]) {
		return "", "", fmt.Errorf("the tenant's host reaches nobody: %s", outcomes(aims, results))
	}
	return results[0].Outcome, outcomes(aims, results), nil
}
