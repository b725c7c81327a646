package netns

import (
	"context"
	"errors"
	"fmt"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/proof"
	"keylab.dev/keylab/netlab"
)

// service is a service's process, which there is once the lab is up.
func (s *supervisor) service(name string) *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.services[name]
}

func (s *supervisor) serviceDown(ctx context.Context, f fault) error {
	if p := s.service(f.Component); p.alive() {
		return p.stop(ctx)
	}
	return fmt.Errorf("the %s does not run", f.Component)
}

func (s *supervisor) serviceKilled(_ context.Context, f fault) error {
	if p := s.service(f.Component); p.alive() {
		p.kill()
		return nil
	}
	return fmt.Errorf("the %s does not run", f.Component)
}

func (s *supervisor) serviceUp(ctx context.Context, f fault) error {
	if s.service(f.Component).alive() {
		return nil
	}
	command := s.configured.Registrar()
	if f.Component == plan.Verifier {
		command = s.configured.Verifier()
	}
	return s.startService(ctx, f.Component, command)
}

func (s *supervisor) serviceRestart(ctx context.Context, f fault) error {
	if err := s.service(f.Component).stop(ctx); err != nil {
		return err
	}
	return s.serviceUp(ctx, f)
}

// ingressDown ends the ingress: connections under way have the time to end that a shutdown gives them.
func (s *supervisor) ingressDown(context.Context, fault) error {
	s.mu.Lock()
	ingress, down := s.ingress, s.ingressIsDown
	s.ingressIsDown = true
	s.mu.Unlock()
	if down {
		return fmt.Errorf("the ingress does not run")
	}
	return ingress.Close()
}

func (s *supervisor) ingressUp(ctx context.Context, f fault) error {
	if err := s.anotherIngress(ctx); err != nil {
		return err
	}
	return s.askAgain(ctx, f, s.allNodes())
}

func (s *supervisor) ingressRestart(ctx context.Context, f fault) error {
	if err := s.ingressDown(ctx, f); err != nil {
		return err
	}
	return s.anotherIngress(ctx)
}

// anotherIngress starts the ingress as another process, as far as it is one.
func (s *supervisor) anotherIngress(ctx context.Context) error {
	s.mu.Lock()
	if s.ingressIsDown {
		s.ingressStarts++
	}
	s.mu.Unlock()
	return s.startIngressAgain(ctx)
}

// startIngressAgain gives the new ingress the routes of the old one, which are kept up to date while it is down. Its counters begin at nothing.
func (s *supervisor) startIngressAgain(ctx context.Context) error {
	s.mu.Lock()
	old, down := s.ingress, s.ingressIsDown
	s.mu.Unlock()
	if !down {
		return nil
	}
	if err := s.startIngress(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ingressIsDown = false
	return s.ingress.ReplaceRoutes(old.Routes())
}

// planNow is the plan with the nodes that the lab has now, and the address that the load balancer has.
func (s *supervisor) planNow() plan.Plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ingressAt.IsValid() {
		return s.members
	}
	return s.members.WithIngress(s.ingressAt)
}

// memberPlan is the plan with the nodes that the lab has now, and the load balancer's address as it was planned.
func (s *supervisor) memberPlan() plan.Plan {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members
}

// moveIngress gives the ingress another address, or the plan's again, as who renumbers a load balancer does: first the address, then the router's rules, then
// the names. Connections under way end; the verifier asks again.
func (s *supervisor) moveIngress(ctx context.Context, f fault) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	now, members := s.planNow(), s.memberPlan()
	next := members
	if !f.Clear {
		if now.Keylime.Ingress != next.Keylime.Ingress {
			return fmt.Errorf("the load balancer was moved already, to %s", now.Keylime.Ingress.Addr())
		}
		to := members.SpareIngress()
		if !to.IsValid() {
			return fmt.Errorf("network %s has no address left to move to", members.Network(plan.Cluster).Prefix)
		}
		next = members.WithIngress(to)
	}
	if now.Keylime.Ingress == next.Keylime.Ingress {
		return nil
	}
	s.mu.Lock()
	down := s.ingressIsDown
	s.mu.Unlock()
	if down {
		return fmt.Errorf("the ingress does not run: mend ingress-down first")
	}
	if err := s.ingressDown(ctx, f); err != nil {
		return err
	}
	if err := s.network.MoveAddress(plan.Ingress, now.Keylime.Ingress.Addr(), next.Keylime.Ingress.Addr()); err != nil {
		return errors.Join(err, s.startIngressAgain(ctx))
	}
	s.mu.Lock()
	s.ingressAt = next.Keylime.Ingress.Addr()
	servers := s.dns
	s.mu.Unlock()
	if err := s.startIngressAgain(ctx); err != nil {
		return err
	}
	if err := s.router.SetRules(rulesOf(next)); err != nil {
		return err
	}
	host := members.HostName(plan.Ingress)
	for _, d := range servers {
		if err := errors.Join(d.SetWildcard(next.DNS.Wildcard), d.SetRecord(host, next.DNS.Records[host])); err != nil {
			return err
		}
	}
	return nil
}

// ingressProcess is the ingress as proofs see it.
func (s *supervisor) ingressProcess() proof.Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := proof.Process{Running: !s.ingressIsDown, ID: fmt.Sprint(s.ingressStarts)}
	if !p.Running {
		p.End, p.Detail = proof.EndStopped, "the ingress was stopped"
	}
	return p
}

func (s *supervisor) forgetName(_ context.Context, f fault) error {
	n := f.On[0]
	n.mu.Lock()
	defer n.mu.Unlock()
	if !s.ingress.RemoveRoute(n.hostname) {
		return fmt.Errorf("the ingress does not know %s", n.hostname)
	}
	return nil
}

func (s *supervisor) knowName(ctx context.Context, f fault) error {
	n := f.On[0]
	n.mu.Lock()
	hostname := n.hostname
	n.mu.Unlock()
	if err := s.ingress.SetRoute(hostname, join(n.Address, n.Agent.Port)); err != nil {
		return err
	}
	return s.askAgain(ctx, f, f.On)
}

// servicesDNS is the DNS server on the services network, which startDNS starts first.
func (s *supervisor) servicesDNS() *netlab.DNS {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dns[0]
}

func (s *supervisor) failDNS(_ context.Context, f fault) error {
	return s.servicesDNS().SetFailure(netlab.DNSFailure(f.Option("answer")))
}

func (s *supervisor) mendDNS(ctx context.Context, f fault) error {
	if err := s.servicesDNS().SetFailure(netlab.DNSWell); err != nil {
		return err
	}
	return s.askAgain(ctx, f, s.allNodes())
}

// reactivate has the verifier ask the nodes again, where it had given them up.
func (s *supervisor) reactivate(ctx context.Context, nodes []*node) error {
	uuids := map[string]string{}
	for _, n := range nodes {
		uuids[n.Name], _ = n.identityNow()
	}
	return fleet.Reactivate(ctx, s.verifier, s.plan.Keylime, uuids)
}

// askAgain is what mending ends with: the verifier is told to ask the nodes again that it had given up, unless the user wants it left alone.
func (s *supervisor) askAgain(ctx context.Context, f fault, nodes []*node) error {
	if f.Leave {
		return nil
	}
	var enrolled []*node
	for _, n := range nodes {
		n.mu.Lock()
		well := n.faultLocked() == nil && n.uuid != ""
		n.mu.Unlock()
		if well { // for one that is dead for another reason, or only joins, it would be in vain
			enrolled = append(enrolled, n)
		}
	}
	if len(enrolled) == 0 {
		return nil
	}
	return s.reactivate(ctx, enrolled)
}
