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
	if !answered(results[0]) && !answered(results[1]) { // a machine that stands still for a moment looks like that, once
		results = probeAll(ctx, t, aims)
	}
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

// Disks is a target whose services can have a disk of their own, that is full.
type Disks interface {
	// DiskFree is how many bytes a service can still write.
	DiskFree(ctx context.Context, component string) (uint64, error)
	// LogEnd is where a service's log ends now, by whatever count the substrate has: bytes, or time.
	LogEnd(ctx context.Context, component string) (int64, error)
	// FindLog is the last line of a service's log, from such an end on, that has a text in it, and how many there are.
	FindLog(ctx context.Context, component, text string, from int64) (line string, count int, err error)
}

// sqliteFull is what SQLite says of a disk without room (SQLITE_FULL).
const sqliteFull = "database or disk is full"

// databaseFull: the service's disk has no room, and the service's own log says since the mark that it could not write for want of it. A service that
// writes nothing says nothing: the registrar writes when an agent registers.
func databaseFull(ctx context.Context, t Target, f control.Fault, since control.Mark) (control.Proof, error) {
	disks, ok := t.(Disks)
	if !ok {
		return control.Proof{}, fmt.Errorf("the services of this lab have no disks of their own")
	}
	free, err := disks.DiskFree(ctx, f.Component)
	if err != nil {
		return control.Proof{}, err
	}
	if free > 0 {
		return unseen("the disk of the %s has %d bytes free", f.Component, free)
	}
	from, known := since.Logs[f.Component]
	if !known {
		return unseen("the mark does not have where the log of the %s ended", f.Component)
	}
	line, count, err := disks.FindLog(ctx, f.Component, sqliteFull, from)
	if err != nil {
		return control.Proof{}, err
	}
	if count == 0 {
		return unseen("the disk of the %s is full, but it has not tried to write since the mark", f.Component)
	}
	return seen("the disk of the %s has no byte free, and its log says %d times since the mark: %s", f.Component, count, line)
}
