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
	return endedService(ctx, t, f.Component, EndStopped)
}

// serviceKilled: likewise of one that was killed.
func serviceKilled(ctx context.Context, t Target, f control.Fault, _ control.Mark) (control.Proof, error) {
	return endedService(ctx, t, f.Component, EndKilled)
}

// ingressDown and ingressRestart: likewise of the ingress.
func ingressDown(ctx context.Context, t Target, _ control.Fault, _ control.Mark) (control.Proof, error) {
	return endedService(ctx, t, plan.Ingress, EndStopped)
}

func ingressRestart(ctx context.Context, t Target, _ control.Fault, since control.Mark) (control.Proof, error) {
	return restartedService(ctx, t, plan.Ingress, since)
}

func endedService(ctx context.Context, t Target, component string, end End) (control.Proof, error) {
	process, err := t.ServiceProcess(ctx, component)
	if err != nil {
		return control.Proof{}, err
	}
	if process.Running {
		return unseen("the %s runs", component)
	}
	if process.End != end {
		return unseen("the %s does not run, but was not %s: %s", component, end, process.Detail)
	}
	port, said, err := servicePort(ctx, t, component)
	if err != nil {
		return control.Proof{}, err
	}
	if port == netlab.OutcomeOpen {
		return unseen("the process of the %s does not run (%s), but its port is open: %s", component, process.Detail, said)
	}
	return seen("the process of the %s does not run (%s), and nobody answers for it: %s", component, process.Detail, said)
}

// serviceRestart: the service is another process than before, and its port is open.
func serviceRestart(ctx context.Context, t Target, f control.Fault, since control.Mark) (control.Proof, error) {
	return restartedService(ctx, t, f.Component, since)
}

func restartedService(ctx context.Context, t Target, component string, since control.Mark) (control.Proof, error) {
	process, err := t.ServiceProcess(ctx, component)
	if err != nil {
		return control.Proof{}, err
	}
	port, said, err := servicePort(ctx, t, component)
	if err != nil {
		return control.Proof{}, err
	}
	if port != netlab.OutcomeOpen {
		return unseen("the %s does not answer: %s", component, said)
	}
	return restarted("the "+component, process, since.Processes[component], said)
}

// servicePort probes a service from where the tenant stands, and at the same time the DNS server there, so that silence means something.
func servicePort(ctx context.Context, t Target, component string) (netlab.Outcome, string, error) {
	p := t.Plan()
	to := map[string]netip.AddrPort{plan.Registrar: p.Keylime.Registrar, plan.Verifier: p.Keylime.Verifier, plan.Ingress: p.Keylime.Ingress}[component]
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
