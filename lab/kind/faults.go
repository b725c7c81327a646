package kind

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/docker/docker/api/types/network"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/manifests"
)

type fault = fleet.Case[plan.Node]

// faults is what can be broken in this lab.
func (l *Lab) faults() map[string]fleet.Breakage[plan.Node] {
	type of = fleet.Breakage[plan.Node]
	all := map[string]of{
		control.FaultFlatNetwork: {Inflict: l.flatten, Mend: l.unflatten, Broke: "the tenant stands on the cluster network too", Mended: "the networks are apart again"},
		control.FaultOpenRouter: {
			Inflict: func(ctx context.Context, _ fault) error { return l.router().OpenAll(ctx) },
			Mend:    func(ctx context.Context, _ fault) error { return l.router().Restore(ctx) },
			Broke:   "the router lets everything through", Mended: "the router follows its allow-list again",
		},
		control.FaultSwappedRoute: {
			Inflict: l.swapRoutes, Mend: l.unswapRoutes,
			Broke: "each hostname leads to the other node's agent", Mended: "each hostname leads to its own agent again", Told: "the verifier was told to ask them again",
		},
		control.FaultDeadAgent: {Inflict: l.pauseAgent, Mend: l.resumeAgent, Broke: "the agent is frozen", Mended: "the agent runs again", Told: "the verifier was told to ask it again"},
		control.FaultAgentKilled: {
			Inflict: l.killAgent, Mend: l.reviveAgent, Broke: "the agent is killed, and its node's kubelet stopped, which would start it again",
			Mended: "the agent runs again", Told: "the verifier was told to ask it again",
		},
		control.FaultAgentRestart: {Inflict: l.restartAgent, Broke: "the agent was stopped and runs again; it has registered with the same keys"},
		control.FaultPartition:    {Inflict: l.partition, Mend: l.heal, Broke: "the node is cut off", Mended: "the node is reached again", Told: "the verifier was told to ask its agent again"},
		control.FaultLatency:      {Inflict: l.delay, Mend: l.undelay, Broke: "the node's packets are held up", Mended: "the node's packets are no longer held up", Told: "the verifier was told to ask its agent again"},
		control.FaultLoss:         {Inflict: l.lose, Mend: l.unlose, Broke: "packets of the node are lost in each direction", Mended: "the node's packets are no longer lost", Told: "the verifier was told to ask its agent again"},
		control.FaultDeadTPM: {
			Inflict: l.killTPM, Mend: l.startTPMAgain, Broke: "the TPM's process is killed",
			Mended: "the TPM runs again", Told: "its clock had gone back with the power, which the verifier does not forgive, so the agent was enrolled anew",
		},
		control.FaultUnknownName:    {Inflict: l.forgetName, Mend: l.knowName, Broke: "the ingress does not know the node's hostname", Mended: "the ingress knows the node's hostname again", Told: "the verifier was told to ask its agent again"},
		control.FaultIngressDown:    {Inflict: l.ingressDown, Mend: l.ingressUp, Broke: "the ingress is stopped", Mended: "the ingress runs again", Told: "the verifier was told to ask all agents again"},
		control.FaultIngressRestart: {Inflict: l.ingressRestart, Broke: "the ingress was stopped and runs again, with the routes that it had"},
		control.FaultMovedAddress:   {Inflict: l.moveIngress, Mend: l.moveIngress, Broke: "the load balancer has another address, which DNS and the router's rules know", Mended: "the load balancer has the address that it had"},
		control.FaultDNSFailure:     {Inflict: l.failDNS, Mend: l.mendDNS, Broke: "the services' DNS server fails", Mended: "the services' DNS server answers again", Told: "the verifier was told to ask all agents again"},
		control.FaultServiceDown:    {Inflict: l.serviceDown, Mend: l.serviceUp, Broke: "the %s is stopped", Mended: "the %s runs again, with the database that it had"},
		control.FaultServiceKilled:  {Inflict: l.serviceKilled, Mend: l.serviceUp, Broke: "the %s is killed", Mended: "the %s runs again, with the database that it had"},
		control.FaultDatabaseFull:   {Inflict: l.fillDisk, Mend: l.freeDisk, Broke: "the disk of the %s is full", Mended: "the disk of the %s has room again", Told: "the verifier was told to ask all agents again"},
		control.FaultNAT:            {Impossible: "the nodes of a kind cluster find one another at their addresses, and the cluster would lose one that it cannot reach"},
		control.FaultClockSkew:      {Inflict: l.skewClock, Mend: l.mendClock, Broke: "the %s was stopped and runs again, with a wrong clock", Mended: "the %s was stopped and runs again, with the right clock", Told: "the verifier was told to ask all agents again"},
		control.FaultServiceRestart: {Inflict: l.serviceRestart, Broke: "the %s was stopped and runs again, with the database that it had"},
	}
	why := ""
	if l.planned.Keylime.Push() {
		why = fleet.NothingLedToAgents
		all[control.FaultSwappedRoute] = of{Impossible: why}
	} else if !l.planned.OwnIngress() {
		why = "the ingress of class " + l.planned.Kubernetes.IngressClass + " is not keylab's own"
	}
	if why != "" {
		for _, kind := range []string{control.FaultUnknownName, control.FaultIngressDown, control.FaultIngressRestart, control.FaultMovedAddress} {
			all[kind] = of{Impossible: why}
		}
	}
	return all
}

// Fault breaks or mends one thing on purpose, and says what was done.
func (l *Lab) Fault(ctx context.Context, f control.Fault) (string, error) {
	if err := l.mustBeUp(); err != nil {
		return "", err
	}
	var names []string
	if fleet.StartsOrStops(f.Kind) {
		names = f.Nodes
	}
	release, err := l.holdNodes(ctx, names...)
	if err != nil {
		return "", err
	}
	defer release()
	return fleet.Break(ctx, l.faults(), f, l.findNode)
}

func (l *Lab) flatten(ctx context.Context, _ fault) error {
	return l.enterNetwork(ctx, plan.Cluster, l.resource(plan.Tenant), &network.EndpointSettings{})
}

func (l *Lab) unflatten(ctx context.Context, _ fault) error {
	return l.docker.NetworkDisconnect(ctx, l.resource(plan.Cluster), l.resource(plan.Tenant), true)
}

// selectNode makes a node's Service select the agent pod of a node.
func (l *Lab) selectNode(ctx context.Context, service, target plan.Node) error {
	if err := l.patchSelector(ctx, service, target.Name); err != nil {
		return err
	}
	return l.awaitRoute(ctx, service, target)
}

// patchSelector makes a node's Service select the agent pods with that value of their label.
func (l *Lab) patchSelector(ctx context.Context, service plan.Node, value string) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	patch := fmt.Sprintf(`{"spec":{"selector":{%q:%q}}}`, manifests.LabelNode, value)
	_, err = k.typed.CoreV1().Services(l.planned.Kubernetes.AgentNamespace).Patch(ctx, manifests.ServiceName(service.KubernetesName), types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("change the service of %s: %w", service.Name, err)
	}
	return nil
}

// awaitRoute waits until the ingress leads a node's name to the agent of a node.
func (l *Lab) awaitRoute(ctx context.Context, name, target plan.Node) error {
	if !l.planned.HasIngress() {
		return nil
	}
	if !l.planned.OwnIngress() {
		return l.awaitServed(ctx, name, target)
	}
	host := l.node(name.Name).Hostname
	return fleet.Await(ctx, "the ingress to lead "+host+" to "+target.Name, func(ctx context.Context) (string, error) {
		pod, err := l.agentPod(ctx, target)
		if err != nil {
			return "", err
		}
		routes := map[string]string{}
		if err := l.askIngress(ctx, "/routes", &routes); err != nil {
			return "", err
		}
		if !strings.HasPrefix(routes[host], pod.Status.PodIP+":") {
			return "it leads to " + routes[host], nil
		}
		return "", nil
	})
}

func (l *Lab) swapRoutes(ctx context.Context, f fault) error {
	return errors.Join(l.selectNode(ctx, f.On[0], f.On[1]), l.selectNode(ctx, f.On[1], f.On[0]))
}

func (l *Lab) unswapRoutes(ctx context.Context, f fault) error {
	if err := errors.Join(l.selectNode(ctx, f.On[0], f.On[0]), l.selectNode(ctx, f.On[1], f.On[1])); err != nil {
		return err
	}
	return l.askAgain(ctx, f, f.On)
}

// agentTask is the agent's container in its node's containerd.
func (l *Lab) agentTask(ctx context.Context, n plan.Node) (string, error) {
	pod, err := l.agentPod(ctx, n)
	if err != nil {
		return "", err
	}
	for _, s := range pod.Status.ContainerStatuses {
		if _, id, ok := strings.Cut(s.ContainerID, "://"); ok && s.Name == manifests.ContainerAgent {
			return id, nil
		}
	}
	return "", fmt.Errorf("pod %s has no running agent", pod.Name)
}

func (l *Lab) agentTaskDo(ctx context.Context, n plan.Node, verb string) error {
	id, err := l.agentTask(ctx, n)
	if err != nil {
		return err
	}
	_, err = l.execOutput(ctx, n.KubernetesName, "ctr", "--namespace=k8s.io", "tasks", verb, id)
	return err
}

// pauseAgent freezes the agent: one that was killed the kubelet would start again. Its kernel still takes connections for it, which nobody answers.
func (l *Lab) pauseAgent(ctx context.Context, f fault) error {
	return l.agentTaskDo(ctx, f.On[0], "pause")
}

func (l *Lab) resumeAgent(ctx context.Context, f fault) error {
	if err := l.agentTaskDo(ctx, f.On[0], "resume"); err != nil && !strings.Contains(err.Error(), "cannot resume a running process") {
		return err
	}
	if err := l.awaitRoute(ctx, f.On[0], f.On[0]); err != nil {
		return err
	}
	return l.askAgain(ctx, f, f.On)
}

// partitionTable is the node's own table that drops all that comes or goes: Docker could take a node off its network only with its address.
const partitionTable = "keylab-partition"

// noPartition deletes it in every family, whether it is there or not.
func noPartition() string {
	var rules []string
	for _, family := range []string{"netdev", "inet"} {
		rules = append(rules, fmt.Sprintf("add table %[1]s %[2]s; delete table %[1]s %[2]s", family, partitionTable))
	}
	return strings.Join(rules, "; ")
}

// cut are the rules of a cable that was pulled out: at the device, nobody on the node is told that its packets are lost.
func cut() string {
	rules := "add table netdev " + partitionTable
	for _, hook := range []string{"ingress", "egress"} {
		rules += fmt.Sprintf("; add chain netdev %[1]s %[2]s { type filter hook %[2]s device eth0 priority -500; policy drop; }", partitionTable, hook)
	}
	return rules
}

// cutBefore516 are those for kernels before 5.16, which have no egress hook. Who sends is told that he must not (EPERM).
func cutBefore516() string {
	return fmt.Sprintf("add table inet %[1]s; "+
		"add chain inet %[1]s in { type filter hook prerouting priority -500; }; add rule inet %[1]s in meta iifname eth0 drop; "+
		"add chain inet %[1]s out { type filter hook output priority -500; }; add rule inet %[1]s out meta oifname eth0 drop; "+
		"add chain inet %[1]s forwarded { type filter hook postrouting priority -500; }; add rule inet %[1]s forwarded meta oifname eth0 drop", partitionTable)
}

func (l *Lab) partition(ctx context.Context, f fault) error {
	node := f.On[0].KubernetesName
	_, err := l.execOutput(ctx, node, "nft", noPartition()+"; "+cut())
	if err == nil {
		return nil
	}
	if _, old := l.execOutput(ctx, node, "nft", noPartition()+"; "+cutBefore516()); old != nil {
		return errors.Join(err, old)
	}
	return nil
}

// heal returns when Kubernetes has heard of the node again and has its agent for ready. A node that was cut off for about as long as Kubernetes waits (50 s) is given up
// when it has hardly come back, and with it its pods, until its kubelet has asked after them: it may wait half a minute before it does.
func (l *Lab) heal(ctx context.Context, f fault) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	node := f.On[0].KubernetesName
	before, heardErr := k.heartbeat(ctx, node)
	if _, err := l.execOutput(ctx, node, "nft", noPartition()); err != nil || heardErr != nil {
		return errors.Join(err, heardErr)
	}
	if err := k.awaitHeartbeat(ctx, node, before); err != nil {
		return err
	}
	if err := l.awaitReady(ctx, node); err != nil {
		return err
	}
	if err := l.awaitAgent(f.On[0])(ctx); err != nil {
		return err
	}
	if err := l.awaitRoute(ctx, f.On[0], f.On[0]); err != nil {
		return err
	}
	return l.askAgain(ctx, f, f.On)
}

func (l *Lab) killTPM(ctx context.Context, f fault) error {
	// A container that was killed on purpose is not started again by Docker.
	return l.docker.ContainerKill(ctx, l.resource(tpmPart(f.On[0].Name)), "KILL")
}

func (l *Lab) startTPMAgain(ctx context.Context, f fault) error {
	m := machines{l}
	if err := m.startTPM(ctx, f.On[0]); err != nil {
		return err
	}
	if f.Leave {
		return nil
	}
	return m.EnrolAgain(ctx, f.On[0])
}

// reactivate has the verifier ask the nodes again, where it had given them up.
func (l *Lab) reactivate(ctx context.Context, nodes []plan.Node) error {
	v, err := l.verifier()
	if err != nil {
		return err
	}
	defer v.Close()
	uuids := map[string]string{}
	for _, n := range nodes {
		uuids[n.Name] = l.node(n.Name).UUID
	}
	return fleet.Reactivate(ctx, v, l.planned.Keylime, uuids)
}

// askAgain is what mending ends with: the verifier is told to ask the nodes again that it had given up, unless the user wants it left alone.
func (l *Lab) askAgain(ctx context.Context, f fault, nodes []plan.Node) error {
	if f.Leave {
		return nil
	}
	faults, err := l.nodeFaults(ctx)
	if err != nil {
		return err
	}
	var well []plan.Node
	for _, n := range nodes {
		if faults[n.Name] == nil { // for one that is dead for another reason it would be in vain
			well = append(well, n)
		}
	}
	if len(well) == 0 {
		return nil
	}
	return l.reactivate(ctx, well)
}
