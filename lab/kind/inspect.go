package kind

import (
	"context"
	"net"
	"strconv"

	"github.com/docker/docker/api/types/container"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/netlab"
)

// Network is the lab's hosts, routes, rules and counters.
func (l *Lab) Network(ctx context.Context) (control.Network, error) {
	n := control.Network{Routes: map[string]string{}, Arrivals: map[string]uint64{}, DNS: map[string]uint64{}}
	if err := l.mustRun(ctx); err != nil {
		return n, err
	}
	p := l.plan()
	containers, err := l.running(ctx)
	if err != nil {
		return n, err
	}
	for _, net := range p.Networks {
		n.Networks = append(n.Networks, netlab.NetworkState{Network: netlab.Network{Name: net.Name, Prefix: net.Prefix}, Switch: l.resource(net.Name)})
	}
	for _, h := range p.Hosts {
		if h.Name == plan.Ingress {
			continue // an address, and a pod behind it
		}
		if containers[l.containerOf(h.Name)].State != "running" {
			n.Hosts = append(n.Hosts, netlab.HostState{Name: h.Name})
			continue
		}
		link, err := l.link(ctx, h.Name)
		if err != nil {
			return n, err
		}
		host, err := link.Inspect(ctx)
		if err != nil {
			return n, err
		}
		host.Name, host.Namespace = h.Name, ""
		for i := range host.Links {
			for _, a := range host.Links[i].Addresses {
				for _, net := range p.Networks {
					if net.Prefix.Contains(a.Addr()) {
						host.Links[i].Network = net.Name
					}
				}
			}
		}
		n.Hosts = append(n.Hosts, host)
	}
	rules, err := l.router().Rules(ctx)
	if err != nil {
		return n, err
	}
	n.Rules = rules.Rules
	if n.Counters, err = l.router().Counters(ctx); err != nil {
		return n, err
	}
	for _, name := range []string{plan.DNS, plan.ClusterDNS} {
		counts, err := l.dns(name).Queries(ctx)
		if err != nil {
			return n, err
		}
		for code, count := range counts {
			n.DNS[code] += count
		}
	}
	if !p.OwnIngress() {
		return n, nil
	}
	stats, err := l.ingressStats(ctx)
	if err != nil {
		return n, err
	}
	if err := l.askIngress(ctx, "/routes", &n.Routes); err != nil {
		return n, err
	}
	n.Ingress.ByHost = map[string]netlab.HostStats{}
	for name, count := range stats.Connections {
		n.Ingress.ByHost[name] = netlab.HostStats{Connections: count}
	}
	n.Ingress.Refused = map[netlab.Reason]uint64{"any-reason": stats.Refused}
	return n, l.agentArrivals(ctx, p, n, containers)
}

// agentArrivals adds what each node's kernel has counted, by the address that the agent's pod has now.
func (l *Lab) agentArrivals(ctx context.Context, p plan.Plan, n control.Network, containers map[string]container.Summary) error {
	ranges, err := l.podRanges(ctx)
	if err != nil {
		return err
	}
	for _, node := range p.Nodes {
		if containers[node.KubernetesName].State != "running" {
			continue
		}
		pod, err := l.agentPod(ctx, node)
		if err != nil || pod.Status.PodIP == "" {
			continue
		}
		count, err := l.arrived(ctx, node, ranges[node.KubernetesName])
		if err != nil {
			return err
		}
		n.Arrivals[net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(int(node.Agent.Port)))] = count
	}
	return nil
}
