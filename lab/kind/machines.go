package kind

import (
	"context"
	"errors"
	"fmt"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
)

// machines is what can be done to the lab's workers and their TPMs: each is a container.
type machines struct{ l *Lab }

var _ fleet.Machines[plan.Node] = machines{}

// Act does one thing to one node, and says what was done.
func (l *Lab) Act(ctx context.Context, a control.Action) (string, error) {
	if err := l.mustBeUp(); err != nil {
		return "", err
	}
	if control.AboutMembers(a.Kind) {
		return l.changeMembers(ctx, a)
	}
	if a.Kind == control.ActionReplaceAgent {
		return l.changeAgent(ctx, a)
	}
	names := []string{a.Node}
	if a.Other != "" {
		names = append(names, a.Other)
	}
	release, err := l.holdNodes(ctx, names...)
	if err != nil {
		return "", err
	}
	defer release()
	return fleet.Act(ctx, machines{l}, a)
}

func (m machines) Find(name string) (plan.Node, error) { return m.l.findNode(name) }

func (m machines) Running(ctx context.Context, n plan.Node) (bool, error) {
	containers, err := m.l.running(ctx)
	if err != nil {
		return false, err
	}
	return containers[n.KubernetesName].State == "running", nil
}

// PowerOff stops or kills the worker first, and then its TPM, as the power goes.
func (m machines) PowerOff(ctx context.Context, n plan.Node, orderly bool) error {
	end := func(name string) error { return m.l.docker.ContainerStop(ctx, name, container.StopOptions{}) }
	if !orderly {
		end = func(name string) error { return m.l.docker.ContainerKill(ctx, name, "KILL") }
	}
	m.l.closeLink(n.Name)
	m.l.closeLink(tpmPart(n.Name))
	if err := end(n.KubernetesName); err != nil {
		return fmt.Errorf("stop node %s: %w", n.KubernetesName, err)
	}
	if err := end(m.l.resource(tpmPart(n.Name))); err != nil && !cerrdefs.IsConflict(err) { // it may be dead already
		return fmt.Errorf("stop the TPM of %s: %w", n.Name, err)
	}
	return m.keepAddress(ctx, n)
}

// keepAddress has the stopped worker come back with the address that it had: Docker gives one that it chose itself to whoever starts first.
func (m machines) keepAddress(ctx context.Context, n plan.Node) error {
	net, address := m.l.resource(plan.Cluster), m.l.known().Addresses[n.Name]
	if !address.IsValid() {
		return nil
	}
	c, err := m.l.docker.ContainerInspect(ctx, n.KubernetesName)
	if err != nil {
		return fmt.Errorf("look at node %s: %w", n.KubernetesName, err)
	}
	if e := c.NetworkSettings.Networks[net]; e != nil && e.IPAMConfig != nil && e.IPAMConfig.IPv4Address == address.String() {
		return nil
	}
	if err := m.l.docker.NetworkDisconnect(ctx, net, n.KubernetesName, true); err != nil {
		return fmt.Errorf("keep the address of %s: %w", n.Name, err)
	}
	settings := &network.EndpointSettings{IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: address.String()}}
	if err := m.l.enterNetwork(ctx, plan.Cluster, n.KubernetesName, settings); err != nil {
		return fmt.Errorf("keep the address of %s: %w", n.Name, err)
	}
	return nil
}

func (m machines) PowerOn(ctx context.Context, n plan.Node) error {
	before, err := m.l.agentTask(ctx, n)
	if err != nil {
		before = "" // the pod was deleted with the TPM that it knew
	}
	if err := m.l.admitAgent(ctx, n); err != nil {
		return err
	}
	if err := m.startTPM(ctx, n); err != nil {
		return err
	}
	if err := m.l.startContainer(ctx, n.KubernetesName); err != nil {
		return fmt.Errorf("start node %s: %w", n.KubernetesName, err)
	}
	// Until the kubelet has looked, Kubernetes shows what was before.
	err = fleet.Await(ctx, "the agent of "+n.Name+" to be started again", func(ctx context.Context) (string, error) {
		now, err := m.l.agentTask(ctx, n)
		if err == nil && now == before {
			return "Kubernetes still shows the one from before", nil
		}
		return "", err
	})
	if err != nil {
		return err
	}
	return m.awaitRegistered(ctx, n)
}

// awaitRegistered waits until a node's agent has registered and can be reached. One that cannot register has no pod then.
func (m machines) awaitRegistered(ctx context.Context, n plan.Node) error {
	err := m.l.awaitAgent(n)(ctx)
	if errors.Is(err, fleet.ErrNotRegistered) {
		return errors.Join(err, m.l.expelAgent(context.WithoutCancel(ctx), n, err))
	}
	if err != nil {
		return err
	}
	return m.l.awaitRoute(ctx, n, n)
}

// startTPM starts the container of a node's TPM, which there may have been a new one made of.
func (m machines) startTPM(ctx context.Context, n plan.Node) error {
	if err := m.l.startAlone(ctx, m.l.resource(tpmPart(n.Name))); err != nil {
		return fmt.Errorf("start the TPM of %s: %w", n.Name, err)
	}
	return m.l.awaitControl(ctx, tpmPart(n.Name))
}

// NewTPM destroys the old TPM with its volume, and makes another one.
func (m machines) NewTPM(ctx context.Context, n plan.Node) error {
	if err := m.takeOut(ctx, n); err != nil {
		return err
	}
	home, err := m.l.tpmVolume(n.Name)
	if err != nil {
		return err
	}
	if err := m.l.docker.VolumeRemove(ctx, m.l.resource(home), true); err != nil && !cerrdefs.IsNotFound(err) {
		return fmt.Errorf("destroy the old TPM of %s: %w", n.Name, err)
	}
	if err := fleet.CountReplacement(m.l.dir, n); err != nil {
		return err
	}
	if err := m.withdraw(n, m.outdated(n)); err != nil {
		return err
	}
	return m.putIn(ctx, n)
}

// deleteAgentPod has Kubernetes make another pod for a node's agent; it is no error when there is none.
func (l *Lab) deleteAgentPod(ctx context.Context, n plan.Node) error {
	if _, err := l.cluster(); err != nil {
		return err
	}
	pod, err := l.agentPod(ctx, n)
	if err != nil {
		return nil // there is none
	}
	return l.deletePod(ctx, *pod)
}

// deletePod deletes a pod at once, and not another one of that name; it is no error when it is gone.
func (l *Lab) deletePod(ctx context.Context, pod corev1.Pod) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	now := int64(0)
	err = k.typed.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete the agent's pod %s: %w", pod.Name, err)
	}
	return nil
}

func (m machines) Keylime() plan.Keylime { return m.l.planned.Keylime }

func (m machines) Delivered(n plan.Node) bool {
	e := m.l.node(n.Name).Enrolled
	return n.Payload != nil && e.Done && e.OK
}

func (m machines) GivenUp(ctx context.Context, n plan.Node) (bool, error) {
	v, err := m.l.verifier()
	if err != nil {
		return false, err
	}
	defer v.Close()
	return fleet.GivenUp(ctx, v, m.l.node(n.Name).UUID)
}

func (m machines) Reactivate(ctx context.Context, nodes []plan.Node) error {
	return m.l.reactivate(ctx, nodes)
}

func (m machines) Forget(ctx context.Context, n plan.Node) error {
	v, err := m.l.verifier()
	if err != nil {
		return err
	}
	defer v.Close()
	registrar, err := m.l.registrar()
	if err != nil {
		return err
	}
	defer registrar.Close()
	known := m.l.node(n.Name)
	if err := fleet.Forget(ctx, v, registrar, known.UUID, known.Former); err != nil {
		return err
	}
	return m.l.learnNode(n.Name, func(f *nodeFacts) { f.Enrolled.Done, f.Forgotten, f.Former = false, true, nil })
}

// RestartAgent has Kubernetes make another pod for the agent.
func (m machines) RestartAgent(ctx context.Context, n plan.Node) error {
	if err := m.l.deleteAgentPod(ctx, n); err != nil {
		return err
	}
	if err := m.l.admitAgent(ctx, n); err != nil {
		return err
	}
	return m.awaitRegistered(ctx, n)
}

func (m machines) Stale(ctx context.Context, n plan.Node) (bool, error) {
	if m.l.node(n.Name).Unregistered != "" {
		return true, nil // for another AK, where it is not for the certificate
	}
	id, err := m.Endorsement(ctx, n)
	if err != nil {
		return false, err
	}
	registrar, err := m.l.registrar()
	if err != nil {
		return false, err
	}
	defer registrar.Close()
	return fleet.Stale(ctx, registrar, m.UUID(n), id.Certificate)
}

func (m machines) EnrolAgain(ctx context.Context, n plan.Node) error {
	l := m.l
	if _, err := l.tpm(n.Name).AwaitSafeClock(ctx); err != nil {
		return err
	}
	v, err := l.verifier()
	if err != nil {
		return err
	}
	defer v.Close()
	known := l.node(n.Name)
	registrar, err := l.registrar()
	if err != nil {
		return err
	}
	defer registrar.Close()
	if err := fleet.ForgetAll(ctx, v, registrar, known.UUID, known.Former); err != nil {
		return err
	}
	log, err := l.logFile(plan.Tenant)
	if err != nil {
		return err
	}
	defer log.Close()
	tenant, err := l.startEnroller(ctx, log)
	if err != nil {
		return err
	}
	defer func() { _ = tenant.Close(context.WithoutCancel(ctx)) }() // its work is done
	e, err := l.enrolNode(ctx, tenant, log, n, known.UUID)
	if err != nil {
		return err
	}
	err = l.learnNode(n.Name, func(f *nodeFacts) {
		f.Enrolled = e
		if e.OK {
			f.Former = nil
		}
	})
	err = errors.Join(err, fleet.CheckEnrolment(n, known.UUID, e, l.planned.Keylime.RequireEKCert, func(string) {}))
	if err != nil || !e.OK {
		return err
	}
	return l.awaitTrusted(ctx, v, n, known.UUID)
}

// findNode knows the lab's nodes by name.
func (l *Lab) findNode(name string) (plan.Node, error) {
	n, ok := l.planned.Node(name)
	if !ok {
		return n, fmt.Errorf("the lab has no node %q; it has %s", name, l.planned.NodeNames())
	}
	return n, nil
}

// mustBeUp is the error for what needs a lab that has come up.
func (l *Lab) mustBeUp() error {
	if l.known().Ready.IsZero() {
		return fmt.Errorf("lab %s is not up: its `up` runs, or did not come to its end", l.planned.Lab)
	}
	return nil
}
