package kind

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"

	"keylab.dev/keylab/lab/kind/netroles"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/netlab"
)

// hostOffset is the number of the machine's own address in each network: Docker gives every bridge one.
const hostOffset = 1

// makeNetworks makes the lab's two Docker networks. Nothing is masqueraded, and every container's default route is the router from the
// start: DefaultGatewayIPv4 is the bridge driver's name for an address that is the gateway without being the bridge's own.
func (l *Lab) makeNetworks(ctx context.Context) error {
	router, _ := l.planned.Host(plan.Router)
	for _, i := range router.Interfaces {
		n := l.planned.Network(i.Network)
		pool := n.Pool
		if !pool.IsValid() { // only the router's address by which Docker knows it comes out of it
			pool = netip.PrefixFrom(nth(n.Prefix, 3<<(32-n.Prefix.Bits()-2)), n.Prefix.Bits()+2)
		}
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("make the Docker network %s: %w", l.resource(n.Name), err)
		}
		patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), makeLimit) // as with containers
		defer cancel()
		made, err := l.making(patient, l.resource(n.Name))
		if err != nil {
			return err
		}
		_, err = l.docker.NetworkCreate(patient, l.resource(n.Name), network.CreateOptions{
			Driver: "bridge",
			IPAM: &network.IPAM{Driver: "default", Config: []network.IPAMConfig{{
				Subnet: n.Prefix.String(), IPRange: pool.String(), Gateway: nth(n.Prefix, hostOffset).String(),
				AuxAddress: map[string]string{"DefaultGatewayIPv4": i.Address.String()},
			}}},
			Options: map[string]string{"com.docker.network.bridge.enable_ip_masquerade": "false"},
			Labels:  l.labels(n.Name),
		})
		made()
		if err != nil {
			return fmt.Errorf("make the Docker network %s, %s: %w", l.resource(n.Name), n.Prefix, err)
		}
	}
	return nil
}

// checkRanges refuses ranges that another of Docker's networks has.
func (l *Lab) checkRanges(ctx context.Context) error {
	list, err := l.docker.NetworkList(ctx, network.ListOptions{})
	if err != nil {
		return fmt.Errorf("list Docker's networks: %w", err)
	}
	for _, other := range list {
		for _, c := range other.IPAM.Config {
			p, err := netip.ParsePrefix(c.Subnet)
			if err != nil {
				continue
			}
			for _, n := range l.planned.Networks {
				if p.Overlaps(n.Prefix) {
					what := ""
					if owner := other.Labels[LabelLab]; owner != "" {
						what = fmt.Sprintf(" of lab %q", owner)
					}
					return fmt.Errorf("the range of the %s network, %s, overlaps Docker's network %s%s, which has %s: set networks.%s.cidr to another range, or remove that network", n.Name, n.Prefix, other.Name, what, p, n.Name)
				}
			}
		}
	}
	return nil
}

// nth is the n-th address of a network.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Masked().Addr().As4()
	v := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
	v += uint32(n)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// dockerHost is the name that kind's nodes look up when they start, before anything else. It is that of their gateway, which they take where the name is
// unknown, after five seconds for an answer from outside of the lab.
const dockerHost = "host.docker.internal"

// startRouter starts the one container that stands in both networks. Its planned addresses are reserved in Docker's own books, so it
// gives them to itself.
func (l *Lab) startRouter(ctx context.Context) error {
	c := l.container(plan.Router, l.images().Tools, "router", configPath)
	c.host.CapAdd = []string{"NET_ADMIN"}
	c.host.Sysctls = map[string]string{"net.ipv4.ip_forward": "1", "net.ipv4.conf.all.arp_ignore": "1"}
	c.networks = []attachment{{network: plan.Services}, {network: plan.Cluster, aliases: []string{dockerHost}}}
	if err := c.writeConfig(l, routerConfig(l.planned)); err != nil {
		return err
	}
	if err := l.start(ctx, c); err != nil {
		return err
	}
	return l.awaitControl(ctx, plan.Router)
}

// routerConfig is what the router must know of a plan.
func routerConfig(p plan.Plan) netroles.RouterConfig {
	host, _ := p.Host(plan.Router)
	config := netroles.RouterConfig{Rules: routerRules(p), Directions: directions(p)}
	for _, i := range host.Interfaces {
		config.Addresses = append(config.Addresses, netip.PrefixFrom(i.Address, p.Network(i.Network).Prefix.Bits()))
	}
	return config
}

func routerRules(p plan.Plan) []netlab.Rule {
	var rules []netlab.Rule
	for _, r := range p.Rules {
		rules = append(rules, netlab.Rule{Name: r.Name, From: r.From, To: r.To, Protocol: r.Protocol, Port: r.Port})
	}
	return rules
}

func directions(p plan.Plan) []netlab.Direction {
	services, cluster := p.Network(plan.Services).Prefix, p.Network(plan.Cluster).Prefix
	return []netlab.Direction{
		{Name: plan.Services + "-to-" + plan.Cluster, From: services, To: cluster},
		{Name: plan.Cluster + "-to-" + plan.Services, From: cluster, To: services},
	}
}

// buildNetwork is the plan's step: networks and router.
func (l *Lab) buildNetwork(ctx context.Context) error {
	if err := l.makeNetworks(ctx); err != nil {
		return err
	}
	return l.startRouter(ctx)
}

// startDNS starts a DNS server on each network, with the same zone.
func (l *Lab) startDNS(ctx context.Context) error {
	for _, name := range []string{plan.DNS, plan.ClusterDNS} {
		host, _ := l.planned.Host(name)
		c := l.container(name, l.images().Tools, "dns", configPath)
		c.networks = []attachment{{network: host.Interfaces[0].Network, address: host.Address(), mac: host.Interfaces[0].MAC}}
		if err := c.writeConfig(l, dnsConfig(l.planned, name)); err != nil {
			return err
		}
		if err := l.start(ctx, c); err != nil {
			return err
		}
		if err := l.awaitControl(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// dnsConfig is what one of a plan's DNS servers must know.
func dnsConfig(p plan.Plan, name string) netroles.DNSConfig {
	host, _ := p.Host(name)
	zone := netlab.Zone{Domain: p.DNS.Domain, Wildcard: p.DNS.Wildcard, Records: p.DNS.Records, Origin: p.Lab + ".test"}
	return netroles.DNSConfig{Zone: zone, Listen: netip.AddrPortFrom(host.Address(), 53)}
}

// router speaks with the router container's own process.
func (l *Lab) router() *netroles.RouterClient {
	return netroles.NewRouterClient(l.dialControl(plan.Router))
}

// dns speaks with one of the DNS servers' own processes.
func (l *Lab) dns(name string) *netroles.DNSClient { return netroles.NewDNSClient(l.dialControl(name)) }

// probeFromNetwork probes from a container of its own in one of the networks, by way of a gateway.
func (l *Lab) probeFromNetwork(ctx context.Context, network string, via netip.Addr, to netip.AddrPort, timeout time.Duration) (r netlab.ProbeResult, err error) {
	const name = "probe"
	c := l.container(name, l.images().Tools, "pause")
	c.host.CapAdd = []string{"NET_ADMIN"} // for a route
	c.networks = []attachment{{network: network}}
	defer func() {
		l.closeLink(name)
		gone := l.docker.ContainerRemove(context.WithoutCancel(ctx), l.resource(name), container.RemoveOptions{Force: true})
		if gone != nil && !cerrdefs.IsNotFound(gone) {
			err = errors.Join(err, gone)
		}
	}()
	if err := l.start(ctx, c); err != nil {
		return r, err
	}
	link, err := l.link(ctx, name)
	if err != nil {
		return r, err
	}
	return link.ProbeVia(ctx, via, to, timeout), nil
}
