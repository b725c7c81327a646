package netns

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"keylab.dev/keylab/lab/netns/sandbox"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/netlab"
)

// buildNetwork makes the plan's namespaces, links and routes, and puts the router's allow-list in force.
func (s *supervisor) buildNetwork(ctx context.Context) error {
	topology, err := topologyOf(s.plan)
	if err != nil {
		return err
	}
	for _, h := range s.plan.Hosts {
		if err := writeResolver(h, s.plan.Lab); err != nil {
			return err
		}
	}
	network, err := netlab.Build(ctx, sandbox.NamespaceDir, topology)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.network = network
	s.mu.Unlock()
	services, cluster := s.plan.Network(plan.Services), s.plan.Network(plan.Cluster)
	router, err := netlab.ApplyRules(network.Host(plan.Router), rulesOf(s.plan),
		netlab.Direction{Name: plan.Services + "-to-" + plan.Cluster, From: services.Prefix, To: cluster.Prefix},
		netlab.Direction{Name: plan.Cluster + "-to-" + plan.Services, From: cluster.Prefix, To: services.Prefix})
	s.mu.Lock()
	s.router = router
	s.mu.Unlock()
	return err
}

func rulesOf(p plan.Plan) []netlab.Rule {
	var rules []netlab.Rule
	for _, r := range p.Rules {
		rules = append(rules, netlab.Rule{Name: r.Name, From: r.From, To: r.To, Protocol: r.Protocol, Port: r.Port})
	}
	return rules
}

func topologyOf(p plan.Plan) (netlab.Topology, error) {
	var t netlab.Topology
	for _, n := range p.Networks {
		t.Networks = append(t.Networks, netlab.Network{Name: n.Name, Prefix: n.Prefix})
	}
	for _, h := range p.Hosts {
		host, err := hostOf(h)
		if err != nil {
			return t, err
		}
		t.Hosts = append(t.Hosts, host)
	}
	return t, nil
}

func hostOf(h plan.Host) (netlab.Host, error) {
	// Every node speaks with these: fixed neighbour entries keep hundreds of nodes from filling the kernel's table.
	hub := h.Name == plan.Ingress || h.Name == plan.Registrar || h.Name == plan.Verifier
	host := netlab.Host{Name: h.Name, Forward: h.Forward, Hub: hub}
	for _, i := range h.Interfaces {
		mac, err := net.ParseMAC(i.MAC)
		if err != nil {
			return host, fmt.Errorf("MAC of %s: %w", h.Name, err)
		}
		host.Interfaces = append(host.Interfaces, netlab.Interface{Network: i.Network, Name: i.Name, Addresses: []netip.Addr{i.Address}, MAC: mac})
	}
	for _, r := range h.Routes {
		host.Routes = append(host.Routes, netlab.Route{To: r.To, Via: r.Via})
	}
	return host, nil
}

// writeResolver writes the resolv.conf which the host's processes see.
func writeResolver(h plan.Host, lab string) error {
	if !h.Resolver.IsValid() {
		return nil
	}
	dir := sandbox.HostDir(h.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("resolver configuration of %s: %w", h.Name, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte(netlab.ResolvConf(h.Resolver, lab+".test")), 0o644); err != nil {
		return fmt.Errorf("resolver configuration of %s: %w", h.Name, err)
	}
	return nil
}

// startDNS starts one DNS server on each network, with the same zone.
func (s *supervisor) startDNS(context.Context) error {
	log, err := s.logger("dns")
	if err != nil {
		return err
	}
	for _, name := range []string{plan.DNS, plan.ClusterDNS} {
		ns := s.network.Host(name)
		address := net.JoinHostPort(mustHost(s.plan, name).Address().String(), "53")
		udp, err := ns.ListenPacket("udp", address)
		if err != nil {
			return err
		}
		tcp, err := ns.Listen("tcp", address)
		if err != nil {
			return err
		}
		z := s.plan.DNS
		zone := netlab.Zone{Domain: z.Domain, Wildcard: z.Wildcard, Records: z.Records, Origin: s.plan.Lab + ".test"}
		d, err := netlab.ServeDNS(context.Background(), zone, []net.PacketConn{udp}, []net.Listener{tcp}, log.With("host", name))
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.dns = append(s.dns, d)
		s.mu.Unlock()
	}
	return nil
}

// startIngress starts the TLS SNI proxy on the LoadBalancer address.
func (s *supervisor) startIngress(context.Context) error {
	log, err := s.logger(plan.Ingress)
	if err != nil {
		return err
	}
	ns := s.network.Host(plan.Ingress)
	l, err := ns.Listen("tcp", s.planNow().Keylime.Ingress.String())
	if err != nil {
		return err
	}
	ingress := netlab.ServeIngress(context.Background(), l, ns.DialContext, netlab.IngressOptions{Log: log})
	s.mu.Lock()
	s.ingress = ingress
	s.mu.Unlock()
	return nil
}

// logger makes a structured log of one of the supervisor's own components.
func (s *supervisor) logger(component string) (*slog.Logger, error) {
	f, err := s.logFile(component)
	if err != nil {
		return nil, err
	}
	return slog.New(slog.NewTextHandler(f, nil)), nil
}

// logFile opens a component's log; it is closed with the lab.
func (s *supervisor) logFile(component string) (io.Writer, error) {
	f, err := os.OpenFile(s.dir.Log(component), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", component, err)
	}
	s.keep(f)
	return f, nil
}

func mustHost(p plan.Plan, name string) plan.Host {
	h, _ := p.Host(name)
	return h
}

func join(a netip.Addr, port uint16) string {
	return net.JoinHostPort(a.String(), strconv.Itoa(int(port)))
}
