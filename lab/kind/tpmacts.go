package kind

import (
	"context"
	"errors"
	"fmt"
	"os"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/manifests"
)

// tpmTool runs a shell command with tpm2-tools in the TPM's own container.
func (m machines) tpmTool(ctx context.Context, n plan.Node, command string) error {
	_, err := m.l.execOutput(ctx, m.l.resource(tpmPart(n.Name)), "env", "TPM2TOOLS_TCTI="+tctiAt(tpmSocketDir), "sh", "-c", command)
	return err
}

func (m machines) ExtendPCR(ctx context.Context, n plan.Node, pcr int) error {
	return m.tpmTool(ctx, n, fmt.Sprintf("printf 'keylab pcr-extend' | tpm2_pcrevent %d", pcr))
}

func (m machines) ClearTPM(ctx context.Context, n plan.Node) error {
	return m.tpmTool(ctx, n, "tpm2_clear -c platform")
}

// SwapTPMs has each node's TPM container take the other's volume from now on.
func (m machines) SwapTPMs(ctx context.Context, a, b plan.Node) error {
	if err := errors.Join(m.takeOut(ctx, a), m.takeOut(ctx, b)); err != nil {
		return err
	}
	if err := fleet.SwapSeeds(m.l.dir, a, b, func() error { return m.l.swapVolumes(a.Name, b.Name) }); err != nil {
		return err
	}
	if err := errors.Join(m.withdraw(a, ""), m.withdraw(b, "")); err != nil {
		return err
	}
	return m.putIn(ctx, a, b)
}

// CloneTPM copies the volume of one node's TPM over that of another's.
func (m machines) CloneTPM(ctx context.Context, from, to plan.Node) error {
	former := m.outdated(to)
	if err := m.takeOut(ctx, to); err != nil {
		return err
	}
	if err := fleet.CloneSeed(m.l.dir, from, to, func() error { return m.copyTPM(ctx, from, to) }); err != nil {
		return err
	}
	if err := m.withdraw(to, former); err != nil {
		return err
	}
	// Of two objects that want one name the older has it, which must be that of whose name it was.
	if err := m.deleteIngress(ctx, to); err != nil {
		return err
	}
	return m.putIn(ctx, to)
}

func (m machines) copyTPM(ctx context.Context, from, to plan.Node) error {
	source, errFrom := m.l.tpmVolume(from.Name)
	target, errTo := m.l.tpmVolume(to.Name)
	if err := errors.Join(errFrom, errTo); err != nil {
		return err
	}
	err := m.l.runTool(ctx, "copy-"+tpmPart(to.Name), func(p *part) {
		p.volume(m.l.resource(source), "/from")
		p.volume(m.l.resource(target), "/to")
	}, "sh", "-ec", "rm -rf /to/* /to/.[!.]*; cp -a /from/. /to/")
	if err != nil {
		return fmt.Errorf("copy the TPM of %s into %s: %w", from.Name, to.Name, err)
	}
	return nil
}

// LoseDisk deletes what the agent has on its node, and what stands for that in the lab's folder.
func (m machines) LoseDisk(ctx context.Context, n plan.Node) error {
	err := m.l.runTool(ctx, "wipe-"+n.Name, func(p *part) { p.host.VolumesFrom = []string{n.KubernetesName} },
		"find", manifests.AgentDataDir, "-mindepth", "1", "-delete")
	if err == nil {
		err = os.RemoveAll(m.l.dir.Agent(n.Name))
	}
	if err != nil {
		return fmt.Errorf("lose the disk: %w", err)
	}
	if n.Agent.UUID == spec.UUIDGenerate { // it gets another one, and with it another name
		if err := m.withdraw(n, m.outdated(n)); err != nil {
			return err
		}
	}
	if err := m.startTPM(ctx, n); err != nil {
		return err
	}
	if err := m.l.manufacture(ctx, n); err != nil {
		return err
	}
	return m.newPods(ctx, n)
}

// Asked tells whether the verifier connects to agents.
func (m machines) Asked() bool { return !m.l.planned.Keylime.Push() }

// Rename gives a node's agent another name, in its configuration, its certificate and its Ingress.
func (m machines) Rename(ctx context.Context, n plan.Node) (string, error) {
	if err := fleet.CountRename(m.l.dir, n); err != nil {
		return "", err
	}
	hostname, err := fleet.Hostname(m.l.dir, n, m.l.node(n.Name).UUID, m.l.planned.Domain)
	if err != nil {
		return "", err
	}
	if err := m.l.learnNode(n.Name, func(f *nodeFacts) { f.Hostname = hostname }); err != nil {
		return "", err
	}
	if err := m.newPods(ctx, n); err != nil {
		return "", err
	}
	return hostname, m.RestartAgent(ctx, n)
}

// takeOut removes the container of a node's TPM, whose state stays in its volume.
func (m machines) takeOut(ctx context.Context, n plan.Node) error {
	m.l.closeLink(tpmPart(n.Name))
	err := m.l.docker.ContainerRemove(ctx, m.l.resource(tpmPart(n.Name)), container.RemoveOptions{Force: true})
	if err != nil && !cerrdefs.IsNotFound(err) {
		return fmt.Errorf("take the TPM of %s out: %w", n.Name, err)
	}
	return nil
}

// putIn starts the TPMs that nodes have now. Their agents' pods are others then, with the names and certificates that follow from the TPMs.
func (m machines) putIn(ctx context.Context, nodes ...plan.Node) error {
	for _, n := range nodes {
		if err := m.l.startTPM(n)(ctx); err != nil {
			return err
		}
	}
	return m.newPods(ctx, nodes...)
}

// newPods applies what agents are made of, and has Kubernetes make other pods for those of the nodes.
func (m machines) newPods(ctx context.Context, nodes ...plan.Node) error {
	k, err := m.l.cluster()
	if err != nil {
		return err
	}
	objects, err := m.l.objects()
	if err != nil {
		return err
	}
	if err := k.apply(ctx, manifests.Agents(objects)); err != nil {
		return err
	}
	for _, n := range nodes {
		if err := m.l.deleteAgentPod(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// withdraw forgets how a node was enrolled, and remembers the UUID that it had, which verifier and registrar may still know; "": none.
func (m machines) withdraw(n plan.Node, former string) error {
	return m.l.learnNode(n.Name, func(f *nodeFacts) {
		f.Registered, f.Enrolled.Done = false, false
		if former != "" {
			f.Former = append(append([]string(nil), f.Former...), former)
		}
	})
}

// outdated is the UUID of a node whose TPM is about to be destroyed; "" where another node has its like.
func (m machines) outdated(n plan.Node) string {
	known := m.l.known().Nodes
	for _, other := range m.l.planned.Nodes {
		if other.Name != n.Name && known[other.Name].UUID == known[n.Name].UUID {
			return ""
		}
	}
	return known[n.Name].UUID
}

func (m machines) deleteIngress(ctx context.Context, n plan.Node) error {
	if !m.l.planned.HasIngress() {
		return nil
	}
	k, err := m.l.cluster()
	if err != nil {
		return err
	}
	name := manifests.ServiceName(n.KubernetesName)
	err = k.typed.NetworkingV1().Ingresses(m.l.planned.Kubernetes.AgentNamespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete the Ingress %s: %w", name, err)
	}
	return nil
}

// runTool runs a program to its end in a container of its own, without a network.
func (l *Lab) runTool(ctx context.Context, name string, with func(*part), argv ...string) (err error) {
	p := &part{name: name}
	p.config = container.Config{Image: l.images().Tools, Labels: l.labels(name), Entrypoint: argv}
	with(p)
	defer func() {
		gone := l.docker.ContainerRemove(context.WithoutCancel(ctx), l.resource(name), container.RemoveOptions{Force: true})
		if gone != nil && !cerrdefs.IsNotFound(gone) {
			err = errors.Join(err, gone)
		}
	}()
	if err := l.start(ctx, p); err != nil {
		return err
	}
	ended, failed := l.docker.ContainerWait(ctx, l.resource(name), container.WaitConditionNotRunning)
	select {
	case err := <-failed:
		return fmt.Errorf("wait for container %s: %w", l.resource(name), err)
	case end := <-ended:
		if end.StatusCode != 0 {
			return l.died(ctx, name)
		}
	}
	return nil
}
