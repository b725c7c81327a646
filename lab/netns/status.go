package netns

import (
	"context"
	"crypto/x509"
	"fmt"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
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
		status.Components = append(status.Components, control.Component{Name: name, State: s.builtInState(name), Address: mustHost(s.plan, name).Address().String()})
	}
	attested, attestedErr := s.verifierAgents(ctx)
	for _, n := range s.nodes {
		ns := n.status(attested, attestedErr)
		_, meant := n.RefusedOnPurpose(s.plan.Keylime.RequireEKCert)
		well = well && (ns.State == stateAttested || ns.State == stateRefused && meant)
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

// builtInState is that of a component which is a part of the supervisor or of the kernel: there or not there yet.
func (s *supervisor) builtInState(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	there := map[string]bool{plan.DNS: len(s.dns) > 0, plan.Ingress: s.ingress != nil, plan.Router: s.router != nil}
	if there[name] {
		return "running"
	}
	return "starting"
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

// The states of a node.
const (
	stateStarting   = "starting"
	stateRegistered = "registered"
	stateEnrolled   = "enrolled"
	stateAttested   = "attested"
	stateRefused    = "refused"
	stateFailed     = "failed"
	stateTPMDead    = "tpm dead"
	stateAgentDead  = "agent dead"
	stateUnknown    = "unknown"
)

func (n *node) status(attested map[string]keylime.VerifierAgent, attestedErr error) control.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	c := control.Node{Name: n.Name, UUID: n.uuid, Hostname: n.hostname, Address: n.Address.String(), State: stateStarting}
	if n.identity != nil && len(n.identity.Certificate) > 0 {
		if cert, err := x509.ParseCertificate(n.identity.Certificate); err == nil {
			c.EKSerial = fmt.Sprintf("%X", cert.SerialNumber)
		}
	}
	v, known := attested[n.uuid]
	if known {
		c.AttestationCount = v.AttestationCount
		if !v.LastSuccessfulAttestation.IsZero() {
			c.LastSuccess = &v.LastSuccessfulAttestation
		}
	}
	switch fault := n.faultLocked(); {
	case fault != nil:
		c.State, c.Detail = fault.state, fault.detail
	case n.enrolled.Done && !n.enrolled.OK:
		c.State, c.Detail = stateRefused, n.enrolled.Message
	case n.agent == nil:
	case !n.enrolled.Done:
		c.State = stateRegistered
	case attestedErr != nil:
		c.State, c.Detail = stateUnknown, attestedErr.Error()
	case !known:
		c.State, c.Detail = stateUnknown, "the verifier does not know this agent"
	case v.OperationalState.Stopped():
		c.State, c.Detail = stateFailed, fmt.Sprintf("verifier: %s, last event %q", v.OperationalState, v.LastEventID)
	case v.AttestationCount == 0:
		c.State = stateEnrolled
	default:
		c.State = stateAttested
	}
	return c
}

// nodeFault says what of a node is dead.
type nodeFault struct{ state, detail string }

// faultLocked looks at the node's TPM and agent; the caller holds n.mu.
func (n *node) faultLocked() *nodeFault {
	if n.tpm != nil && !n.tpm.Alive() {
		detail := "its process ended"
		if err := n.tpm.Err(); err != nil {
			detail = err.Error()
		}
		return &nodeFault{stateTPMDead, detail}
	}
	if n.agent != nil {
		if err := n.agent.ended(); err != nil {
			return &nodeFault{stateAgentDead, err.Error()}
		}
	}
	return nil
}
