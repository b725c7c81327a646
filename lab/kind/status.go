package kind

import (
	"context"
	"fmt"
	"strings"

	"github.com/docker/docker/api/types/container"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
)

// running are the lab's containers by name, whatever their state.
func (l *Lab) running(ctx context.Context) (map[string]container.Summary, error) {
	f, err := find(ctx, l.docker, l.planned.Lab)
	if err != nil {
		return nil, err
	}
	out := map[string]container.Summary{}
	for _, c := range f.containers {
		for _, name := range c.Names {
			out[strings.TrimPrefix(name, "/")] = c
		}
	}
	return out, nil
}

// Status is the lab at this moment. control.ErrNotRunning when Docker has nothing of it that runs.
func (l *Lab) Status(ctx context.Context) (control.Status, error) {
	containers, err := l.running(ctx)
	if err != nil {
		return control.Status{}, err
	}
	if len(containers) == 0 {
		return control.Status{}, control.ErrNotRunning
	}
	known := l.known()
	status := control.Status{Lab: l.planned.Lab, Substrate: l.planned.Substrate, State: control.Running, Started: known.Started}
	if known.Ready.IsZero() {
		status.State = control.Starting
	}
	well := true
	for _, name := range []string{plan.Registrar, plan.Verifier, plan.DNS, plan.Ingress, plan.Router} {
		if name == plan.Ingress && !l.planned.OwnIngress() {
			continue // there is none, or nobody knows of what it is made
		}
		c := l.component(ctx, containers, name)
		well = well && c.State == "running"
		status.Components = append(status.Components, c)
	}
	attested, attestedErr := l.verifierAgents(ctx)
	faults := l.faultsAmong(ctx, containers)
	for _, n := range l.plan().Nodes {
		k := known.Nodes[n.Name]
		s := fleet.NodeFacts{
			Node:          control.Node{Name: n.Name, UUID: k.UUID, Hostname: k.Hostname, Address: n.Address.String()},
			EKCertificate: k.EKCertificate, Fault: faults[n.Name], IMA: n.IMA != nil, AgentStarted: k.Registered, Enrolled: k.Enrolled, Forgotten: k.Forgotten,
		}.Status(attested, attestedErr)
		_, meant := n.RefusedOnPurpose(l.planned.Keylime.RequireEKCert)
		well = well && (s.State == fleet.StateAttested || s.State == fleet.StateRefused && meant)
		status.Nodes = append(status.Nodes, s)
	}
	if status.State == control.Running && !well {
		status.State = control.Degraded
	}
	return status, nil
}

// component is one part of the lab that is not a node.
func (l *Lab) component(ctx context.Context, containers map[string]container.Summary, name string) control.Component {
	host, _ := l.plan().Host(name)
	c := control.Component{Name: name, State: "running", Address: host.Address().String()}
	if name == plan.Ingress {
		if k, err := l.cluster(); err != nil {
			c.State = "starting"
		} else if pods, err := k.pods(ctx, l.planned.Kubernetes.SystemNamespace, ingressSelector); err != nil {
			c.State, c.Detail = "dead", err.Error()
		} else if len(pods) == 0 || !podReady(pods[0]) {
			c.State = "starting"
		}
		return c
	}
	found, ok := containers[l.resource(name)]
	switch {
	case !ok:
		c.State = "starting"
		if !l.known().Ready.IsZero() {
			c.State, c.Detail = "dead", "its container is gone"
		}
	case found.State != "running":
		if err := l.died(ctx, name); err != nil { // else it runs again meanwhile
			c.State, c.Detail = "dead", err.Error()
		}
	}
	return c
}

// nodeFaults says of each node whether its TPM, the node itself or its agent does not run.
func (l *Lab) nodeFaults(ctx context.Context) (map[string]*fleet.Fault, error) {
	containers, err := l.running(ctx)
	if err != nil {
		return nil, err
	}
	return l.faultsAmong(ctx, containers), nil
}

// faultsAmong is nodeFaults by the lab's containers. That a pod is not ready the cluster says also of a node that it does not reach.
func (l *Lab) faultsAmong(ctx context.Context, containers map[string]container.Summary) map[string]*fleet.Fault {
	faults := map[string]*fleet.Fault{}
	known := l.known()
	var registered []plan.Node
	for _, n := range l.planned.Nodes {
		if known.Nodes[n.Name].UUID == "" {
			continue // not made yet
		}
		if c, ok := containers[n.KubernetesName]; !known.Ready.IsZero() && (!ok || c.State != "running") {
			faults[n.Name] = &fleet.Fault{State: fleet.StateOff, Detail: fmt.Sprintf("its container %s does not run", n.KubernetesName)}
		} else if f := l.tpmFault(containers, n.Name); f != nil {
			faults[n.Name] = f
		} else if why := known.Nodes[n.Name].Unregistered; why != "" {
			faults[n.Name] = &fleet.Fault{State: fleet.StateAgentDead, Detail: why + ", and has no pod"}
		} else if known.Nodes[n.Name].Registered {
			registered = append(registered, n)
		}
	}
	if len(registered) == 0 {
		return faults
	}
	pods, err := l.agentPods(ctx)
	for _, n := range registered {
		pod, ok := pods[n.KubernetesName]
		why := ""
		switch {
		case err != nil:
			why = err.Error()
		case !ok:
			why = errNoPod(n).Error()
		case !podReady(pod):
			why = "its pod " + pod.Name + " is not ready"
		default:
			continue
		}
		faults[n.Name] = &fleet.Fault{State: fleet.StateAgentDead, Detail: why, Hearsay: true}
	}
	return faults
}
