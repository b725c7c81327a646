package kind

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"syscall"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/proof"
)

var _ proof.Target = &target{}

// Mark counts what Fired compares with.
func (l *Lab) Mark(ctx context.Context) (control.Mark, error) {
	var m control.Mark
	err := l.withTarget(ctx, func(t *target) error {
		m = proof.Mark(ctx, t)
		return nil
	})
	return m, err
}

// Fired tells whether a fault was seen to have its effect since the mark.
func (l *Lab) Fired(ctx context.Context, f control.Fault, since control.Mark) (control.Proof, error) {
	var p control.Proof
	err := l.withTarget(ctx, func(t *target) (err error) {
		p, err = proof.Fired(ctx, t, f, since)
		return err
	})
	return p, err
}

func (l *Lab) withTarget(ctx context.Context, do func(*target) error) error {
	if err := l.mustBeUp(); err != nil {
		return err
	}
	release, err := l.holdMembers(ctx)
	if err != nil {
		return err
	}
	defer release()
	t, err := l.target(ctx)
	if err != nil {
		return err
	}
	defer t.registrar.Close()
	defer t.verifier.Close()
	return do(t)
}

func (t *target) DNSAnswers(ctx context.Context) (map[string]uint64, error) {
	answers := map[string]uint64{}
	for _, name := range []string{plan.DNS, plan.ClusterDNS} {
		counts, err := t.l.dns(name).Queries(ctx)
		if err != nil {
			return nil, err
		}
		for code, count := range counts {
			answers[code] += count
		}
	}
	return answers, nil
}

func (t *target) AgentAddress(ctx context.Context, node string) (netip.AddrPort, error) {
	n, err := t.l.findNode(node)
	if err != nil {
		return netip.AddrPort{}, err
	}
	pod, err := t.l.agentPod(ctx, n)
	if err != nil {
		return netip.AddrPort{}, err
	}
	address, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("pod %s has no address: %w", pod.Name, err)
	}
	return netip.AddrPortFrom(address, n.Agent.Port), nil
}

func (t *target) AgentProcess(ctx context.Context, node string) (proof.Process, error) {
	n, err := t.l.findNode(node)
	if err != nil {
		return proof.Process{}, err
	}
	if _, err := t.l.agentTask(ctx, n); err != nil {
		return proof.Process{Detail: err.Error()}, nil
	}
	id, status, err := t.l.task(ctx, n)
	if err != nil {
		return proof.Process{}, err
	}
	p := proof.Process{ID: id, Running: status == taskRunning, Detail: "containerd says that its task is " + status}
	switch {
	case status == "PAUSED": // the nearest to stopped that the kubelet lets be
		p.End = proof.EndStopped
	case !p.Running && t.l.node(node).Killed == id:
		p.End = proof.EndKilled
	}
	return p, nil
}

// exitKilled is the exit status that Docker gives a process which SIGKILL ended.
const exitKilled = 128 + int(syscall.SIGKILL)

func (t *target) ServiceProcess(ctx context.Context, component string) (proof.Process, error) {
	if component == plan.Ingress {
		return t.l.ingressProcess(ctx)
	}
	c, err := t.l.docker.ContainerInspect(ctx, t.l.resource(component))
	if err != nil {
		return proof.Process{}, fmt.Errorf("look at container %s: %w", t.l.resource(component), err)
	}
	p := proof.Process{Running: c.State.Running, ID: c.State.StartedAt}
	if !p.Running {
		p.Detail = fmt.Sprintf("its container is %s, exit status %d", c.State.Status, c.State.ExitCode)
		if p.End = proof.EndStopped; c.State.ExitCode == exitKilled {
			p.End = proof.EndKilled
		}
	}
	return p, nil
}

// ingressProcess is the ingress' pod.
func (l *Lab) ingressProcess(ctx context.Context) (proof.Process, error) {
	k, err := l.cluster()
	if err != nil {
		return proof.Process{}, err
	}
	pods, err := k.pods(ctx, l.planned.Kubernetes.SystemNamespace, ingressSelector)
	if err != nil {
		return proof.Process{}, err
	}
	for _, p := range pods {
		if podReady(p) {
			return proof.Process{ID: string(p.UID), Running: true}, nil
		}
	}
	if len(pods) == 0 {
		return proof.Process{End: proof.EndStopped, Detail: "it has no pod"}, nil
	}
	return proof.Process{ID: string(pods[0].UID), Detail: "its pod " + pods[0].Name + " is not ready"}, nil
}

// taskStatus finds a container's status in what `ctr tasks list` prints: TASK, PID, STATUS.
func taskStatus(list, id string) string {
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			return f[2]
		}
	}
	return "gone"
}
