package kind

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/manifests"
)

// fault is one thing that can be broken on purpose, and mended. Its names are those of every substrate.
type fault struct {
	nodes         int
	inflict, mend func(context.Context, []plan.Node) error
	broke, mended string
}

func (l *Lab) faults() map[string]fault {
	return map[string]fault{
		"flat-network": {0, l.flatten, l.unflatten, "the tenant stands on the cluster network too", "the networks are apart again"},
		"open-router": {0, func(ctx context.Context, _ []plan.Node) error { return l.router().OpenAll(ctx) }, func(ctx context.Context, _ []plan.Node) error { return l.router().Restore(ctx) },
			"the router lets everything through", "the router follows its allow-list again"},
		"swapped-route": {2, l.swapRoutes, l.unswapRoutes, "each hostname leads to the other node's agent", "each hostname leads to its own agent again; the verifier was told to ask them again"},
		"dead-agent":    {1, l.pauseAgent, l.resumeAgent, "the agent is frozen", "the agent runs again, and the verifier was told to ask it again"},
		"partition":     {1, l.partition, l.heal, "the node is cut off", "the node is reached again, and the verifier was told to ask its agent again"},
		"dead-tpm":      {1, l.killTPM, l.startTPMAgain, "the TPM's process is killed", "the TPM runs again; its clock had gone back with the power, which the verifier does not forgive, so the agent was enrolled anew"},
	}
}

// Fault breaks or mends one thing on purpose, and says what was done.
func (l *Lab) Fault(ctx context.Context, f control.Fault) (string, error) {
	if l.known().Ready.IsZero() {
		return "", fmt.Errorf("lab %s is not up", l.planned.Lab)
	}
	all := l.faults()
	kind, ok := all[f.Kind]
	if !ok {
		return "", fmt.Errorf("there is no fault %q; there are %s", f.Kind, strings.Join(slices.Sorted(maps.Keys(all)), ", "))
	}
	if len(f.Nodes) != kind.nodes {
		return "", fmt.Errorf("fault %s needs %d node names, not %d", f.Kind, kind.nodes, len(f.Nodes))
	}
	var nodes []plan.Node
	for _, name := range f.Nodes {
		n, ok := l.planned.Node(name)
		if !ok {
			return "", fmt.Errorf("the lab has no node %q", name)
		}
		nodes = append(nodes, n)
	}
	act, done := kind.inflict, kind.broke
	if f.Clear {
		act, done = kind.mend, kind.mended
	}
	if err := act(ctx, nodes); err != nil {
		return "", fmt.Errorf("fault %s: %w", f.Kind, err)
	}
	return done, nil
}

func (l *Lab) flatten(ctx context.Context, _ []plan.Node) error {
	return l.docker.NetworkConnect(ctx, l.resource(plan.Cluster), l.resource(plan.Tenant), &network.EndpointSettings{})
}

func (l *Lab) unflatten(ctx context.Context, _ []plan.Node) error {
	return l.docker.NetworkDisconnect(ctx, l.resource(plan.Cluster), l.resource(plan.Tenant), true)
}

// selectNode makes a node's Service select the agent pod of a node.
func (l *Lab) selectNode(ctx context.Context, service, target plan.Node) error {
	k, err := l.cluster()
	if err != nil {
		return err
	}
	patch := fmt.Sprintf(`{"spec":{"selector":{%q:%q}}}`, manifests.LabelNode, target.Name)
	_, err = k.typed.CoreV1().Services(l.planned.Kubernetes.AgentNamespace).Patch(ctx, manifests.ServiceName(service.KubernetesName), types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("change the service of %s: %w", service.Name, err)
	}
	return l.awaitRoute(ctx, service, target)
}

// awaitRoute waits until the ingress leads a node's name to the agent of a node.
func (l *Lab) awaitRoute(ctx context.Context, name, target plan.Node) error {
	host := l.node(name.Name).Hostname
	return await(ctx, "the ingress to lead "+host+" to "+target.Name, func(ctx context.Context) (string, error) {
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

func (l *Lab) swapRoutes(ctx context.Context, n []plan.Node) error {
	return errors.Join(l.selectNode(ctx, n[0], n[1]), l.selectNode(ctx, n[1], n[0]))
}

func (l *Lab) unswapRoutes(ctx context.Context, n []plan.Node) error {
	if err := errors.Join(l.selectNode(ctx, n[0], n[0]), l.selectNode(ctx, n[1], n[1])); err != nil {
		return err
	}
	return l.reactivate(ctx, n)
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
func (l *Lab) pauseAgent(ctx context.Context, n []plan.Node) error {
	return l.agentTaskDo(ctx, n[0], "pause")
}

func (l *Lab) resumeAgent(ctx context.Context, n []plan.Node) error {
	if err := l.agentTaskDo(ctx, n[0], "resume"); err != nil && !strings.Contains(err.Error(), "cannot resume a running process") {
		return err
	}
	if err := l.awaitRoute(ctx, n[0], n[0]); err != nil {
		return err
	}
	return l.reactivate(ctx, n)
}

// partitionTable is the node's own table that drops all that comes or goes: Docker could take a node off its network only with its address.
const partitionTable = "keylab-partition"

func (l *Lab) partition(ctx context.Context, n []plan.Node) error {
	rules := "add table inet " + partitionTable + "; delete table inet " + partitionTable + "; add table inet " + partitionTable
	for _, hook := range []string{"prerouting", "output", "postrouting"} {
		rules += fmt.Sprintf("; add chain inet %s %s { type filter hook %s priority -500; }; add rule inet %s %s meta iifname eth0 drop", partitionTable, hook, hook, partitionTable, hook)
		if hook != "prerouting" {
			rules = strings.TrimSuffix(rules, "meta iifname eth0 drop") + "meta oifname eth0 drop"
		}
	}
	_, err := l.execOutput(ctx, n[0].KubernetesName, "nft", rules)
	return err
}

func (l *Lab) heal(ctx context.Context, n []plan.Node) error {
	if _, err := l.execOutput(ctx, n[0].KubernetesName, "nft", "add table inet "+partitionTable+"; delete table inet "+partitionTable); err != nil {
		return err
	}
	if err := l.awaitRoute(ctx, n[0], n[0]); err != nil {
		return err
	}
	return l.reactivate(ctx, n)
}

func (l *Lab) killTPM(ctx context.Context, n []plan.Node) error {
	// A container that was killed on purpose is not started again by Docker.
	return l.docker.ContainerKill(ctx, l.resource(tpmPart(n[0].Name)), "KILL")
}

func (l *Lab) startTPMAgain(ctx context.Context, n []plan.Node) error {
	if err := l.docker.ContainerStart(ctx, l.resource(tpmPart(n[0].Name)), container.StartOptions{}); err != nil {
		return err
	}
	if err := l.awaitControl(ctx, tpmPart(n[0].Name)); err != nil {
		return err
	}
	if _, err := l.tpm(n[0].Name).AwaitSafeClock(ctx); err != nil {
		return err
	}
	return l.enrolAgain(ctx, n[0])
}

// enrolAgain has the verifier forget an agent, and the tenant hand it over anew.
func (l *Lab) enrolAgain(ctx context.Context, n plan.Node) error {
	v, err := l.verifier()
	if err != nil {
		return err
	}
	defer v.Close()
	uuid := l.node(n.Name).UUID
	err = await(ctx, "the verifier to forget "+n.Name, func(ctx context.Context) (string, error) {
		done, err := v.Delete(ctx, uuid)
		if errors.Is(err, keylime.ErrNotFound) || err == nil && done {
			return "", nil
		}
		return "it ends a quote that is under way", err
	})
	if err != nil {
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
	e, err := fleet.Enrol(ctx, tenant, log, uuid)
	if err != nil {
		return err
	}
	if err := l.learnNode(n.Name, func(f *nodeFacts) { f.Enrolled = e }); err != nil {
		return err
	}
	if !e.OK {
		return fmt.Errorf("the tenant refused %s (%s): %s", n.Name, uuid, e.Message)
	}
	return fleet.AwaitAttested(ctx, v, n.Name, uuid)
}

// reactivate does what an operator would after the repair, and waits until the verifier trusts the nodes again: one that has given an agent up asks it no
// more by itself. It may also give it up only now, for a last answer from before the repair.
func (l *Lab) reactivate(ctx context.Context, nodes []plan.Node) error {
	v, err := l.verifier()
	if err != nil {
		return err
	}
	defer v.Close()
	before := map[string]int{}
	return await(ctx, "the verifier to attest the nodes again", func(ctx context.Context) (string, error) {
		var missing []string
		for _, n := range nodes {
			uuid := l.node(n.Name).UUID
			a, err := v.Agent(ctx, uuid)
			if errors.Is(err, keylime.ErrNotFound) {
				continue // it was never enrolled
			}
			if err != nil {
				return "", fmt.Errorf("ask the verifier for %s: %w", n.Name, err)
			}
			if a.OperationalState.Stopped() {
				if err := v.Reactivate(ctx, uuid); err != nil {
					return "", fmt.Errorf("reactivate %s at the verifier: %w", n.Name, err)
				}
				delete(before, n.Name)
				missing = append(missing, n.Name+" was given up, and is asked again")
				continue
			}
			if first, ok := before[n.Name]; !ok {
				before[n.Name] = a.AttestationCount
				missing = append(missing, n.Name+" is being asked")
			} else if a.AttestationCount <= first {
				missing = append(missing, n.Name+" is "+a.OperationalState.String())
			}
		}
		return strings.Join(missing, "; "), nil
	})
}
