package netns

import (
	"context"
	"fmt"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
)

// Status implements control.Lab.
func (s *supervisor) Status(ctx context.Context) (control.Status, error) {
	status := control.Status{Lab: s.plan.Lab, Substrate: s.plan.Substrate, State: s.phase(), Started: s.started}
	well := true
	for _, name := range []string{plan.Registrar, plan.Verifier} {
		c := s.serviceStatus(name)
		well = well && c.State == "running"
		status.Components = append(status.Components, c)
	}
	for _, name := range []string{plan.DNS, plan.Ingress, plan.Router} {
		c := s.builtIn(name)
		well = well && c.State != "dead"
		status.Components = append(status.Components, c)
	}
	attested, attestedErr := s.verifierAgents(ctx)
	for _, n := range s.allNodes() {
		ns := n.status(attested, attestedErr)
		_, meant := n.RefusedOnPurpose(s.plan.Keylime.RequireEKCert)
		well = well && (ns.State == fleet.StateAttested || ns.State == fleet.StateRefused && meant)
		status.Nodes = append(status.Nodes, ns)
	}
	if status.State == control.Running && !well {
		status.State = control.Degraded
	}
	return status, nil
}

// serviceStatus is one of Keylime's services.
func (s *supervisor) serviceStatus(name string) control.Component {
	c := control.Component{Name: name, State: "starting", Address: mustHost(s.plan, name).Address().String()}
	s.mu.Lock()
	p := s.services[name]
	s.mu.Unlock()
	switch {
	case p == nil:
	case p.alive():
		c.State = "running"
	default:
		c.State, c.Detail = "dead", p.died().Error()
	}
	return c
}

// builtIn is a component which is a part of the supervisor or of the kernel: there or not there yet, or stopped by a fault.
func (s *supervisor) builtIn(name string) control.Component {
	c := control.Component{Name: name, State: "starting", Address: mustHost(s.planNow(), name).Address().String()}
	s.mu.Lock()
	defer s.mu.Unlock()
	there := map[string]bool{plan.DNS: len(s.dns) > 0, plan.Ingress: s.ingress != nil, plan.Router: s.router != nil}
	switch {
	case name == plan.Ingress && s.ingressIsDown:
		c.State, c.Detail = "dead", "it was stopped"
	case there[name]:
		c.State = "running"
	}
	return c
}

func (s *supervisor) verifierAgents(ctx context.Context) (map[string]keylime.VerifierAgent, error) {
	s.mu.Lock()
	client := s.verifier
	s.mu.Unlock()
	if client == nil {
		return nil, nil
	}
	return client.Agents(ctx)
}

func (n *node) status(attested map[string]keylime.VerifierAgent, attestedErr error) control.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	f := fleet.NodeFacts{
		Node:  control.Node{Name: n.Name, UUID: n.uuid, Hostname: n.hostname, Address: n.Address.String()},
		Fault: n.faultLocked(), IMA: n.IMA != nil, AgentStarted: n.agent != nil, Enrolled: n.enrolled, Forgotten: n.forgotten,
	}
	if n.identity != nil {
		f.EKCertificate = n.identity.Certificate
	}
	return f.Status(attested, attestedErr)
}

// faultLocked looks at the node's TPM and agent; the caller holds n.mu.
func (n *node) faultLocked() *fleet.Fault {
	if n.off {
		return &fleet.Fault{State: fleet.StateOff, Detail: "it was stopped"}
	}
	if n.tpm != nil && !n.tpm.Alive() {
		detail := "its process ended"
		if err := n.tpm.Err(); err != nil {
			detail = err.Error()
		}
		return &fleet.Fault{State: fleet.StateTPMDead, Detail: detail}
	}
	if n.agent != nil {
		if err := n.agent.ended(); err != nil {
			if n.unregistered != nil {
				err = fmt.Errorf("it could not register: %w", n.unregistered)
			}
			return &fleet.Fault{State: fleet.StateAgentDead, Detail: err.Error()}
		}
	}
	return nil
}
