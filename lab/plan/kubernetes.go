package plan

import (
	"fmt"
	"net/netip"

	"keylab.dev/keylab/lab/spec"
)

// Names that are the same in every cluster.
const (
	AgentNamespace  = "keylab-agents"
	SystemNamespace = "keylab-system"
)

// kubernetes plans the cluster.
func kubernetes(s spec.Spec) *Kubernetes {
	cluster := "keylab-" + s.Name
	return &Kubernetes{
		Cluster: cluster, ControlPlane: cluster + "-control-plane", Version: s.Kubernetes.Version,
		PodCIDR: s.Kubernetes.PodCIDR, ServiceCIDR: s.Kubernetes.ServiceCIDR,
		AgentNamespace: AgentNamespace, SystemNamespace: SystemNamespace,
		IngressClass: s.Ingress.Class, ImageSource: string(s.Images.Source), ImageRegistry: s.Images.Registry,
	}
}

// workerName is how kind names its workers: NAME-worker, NAME-worker2, NAME-worker3, ...
func workerName(cluster string, number int) string {
	if number == 1 {
		return cluster + "-worker"
	}
	return fmt.Sprintf("%s-worker%d", cluster, number)
}

// worker makes the node that was planned last one of the cluster's workers.
func (b *builder) worker(number int) {
	b.setPooled()
	b.plan.Nodes[len(b.plan.Nodes)-1].KubernetesName = workerName(b.plan.Kubernetes.Cluster, number)
}

// setPool sets a part of the cluster network apart for the nodes of a kind cluster, which get their addresses from Docker in no
// certain order, and plans the control plane in it. It returns the next address.
func (b *builder) setPool(pool netip.Prefix, controlPlane string, resolver netip.Addr) netip.Addr {
	for i := range b.plan.Networks {
		if b.plan.Networks[i].Name == Cluster {
			b.plan.Networks[i].Pool = pool
		}
	}
	b.pool = pool
	b.host(controlPlane, Cluster, pool.Addr(), resolver)
	b.setPooled()
	return pool.Addr().Next()
}

// setPooled marks the host that was planned last as one that gets its address, and its MAC, from Docker.
func (b *builder) setPooled() {
	h := &b.plan.Hosts[len(b.plan.Hosts)-1]
	h.Pooled, h.Interfaces[0].MAC = true, ""
}

// WithAddresses is the plan with the addresses that pooled hosts have really got, wherever one of them stands.
func (p Plan) WithAddresses(got map[string]netip.Addr) Plan {
	real := map[netip.Addr]netip.Addr{}
	hosts := make([]Host, len(p.Hosts))
	for i, h := range p.Hosts {
		h.Interfaces = append([]Interface(nil), h.Interfaces...)
		if a, ok := got[h.Name]; ok && h.Pooled {
			real[h.Address()] = a
			h.Interfaces[0].Address = a
		}
		hosts[i] = h
	}
	p.Hosts = hosts
	replace := func(a netip.Addr) netip.Addr {
		if r, ok := real[a]; ok {
			return r
		}
		return a
	}
	p.Nodes = append([]Node(nil), p.Nodes...)
	for i := range p.Nodes {
		p.Nodes[i].Address = replace(p.Nodes[i].Address)
	}
	records := map[string]netip.Addr{}
	for name, a := range p.DNS.Records {
		records[name] = replace(a)
	}
	p.DNS.Records = records
	p.Rules = append([]Rule(nil), p.Rules...)
	for i, r := range p.Rules {
		for _, end := range []*netip.Prefix{&r.From, &r.To} {
			if end.IsSingleIP() {
				*end = netip.PrefixFrom(replace(end.Addr()), end.Bits())
			}
		}
		p.Rules[i] = r
	}
	return p
}
