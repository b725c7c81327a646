package plan_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
)

func kindPlan(t *testing.T, text string) plan.Plan {
	t.Helper()
	s, err := spec.Decode("lab.yaml", []byte("apiVersion: keylab/v1alpha1\nkind: Lab\nsubstrate: kind\nname: k\n"+text))
	if err != nil {
		t.Fatal(err)
	}
	s.SetDefaults()
	p, err := plan.Make(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Nodes of a cluster get their addresses from Docker, out of a pool in which the plan has nothing of its own.
func TestPool(t *testing.T) {
	p := kindPlan(t, "nodes: 12\n")
	pool := p.Network(plan.Cluster).Pool
	if pool != netip.MustParsePrefix("198.18.20.64/26") {
		t.Errorf("pool %s", pool)
	}
	pooled := 0
	for _, h := range p.Hosts {
		for _, i := range h.Interfaces {
			if pool.Contains(i.Address) != h.Pooled {
				t.Errorf("%s has %s, pooled %v", h.Name, i.Address, h.Pooled)
			}
		}
		if h.Pooled {
			pooled++
		}
	}
	if pooled != 13 {
		t.Errorf("%d hosts are pooled, want 12 workers and the control plane", pooled)
	}
	if a, b := p.Nodes[0].KubernetesName, p.Nodes[11].KubernetesName; a != "keylab-k-worker" || b != "keylab-k-worker12" {
		t.Errorf("names %s, %s", a, b)
	}
}

// The addresses that the nodes got stand wherever the planned ones stood, even when two were swapped.
func TestWithAddresses(t *testing.T) {
	p := kindPlan(t, `nodes: [{name: a}, {name: b}]
networks:
  allow: [{from: tenant, to: b, port: 22}]
`)
	a, b := p.Nodes[0].Address, p.Nodes[1].Address
	q := p.WithAddresses(map[string]netip.Addr{"a": b, "b": a, "registrar": a})
	for name, want := range map[string]netip.Addr{"a": b, "b": a} {
		n, _ := q.Node(name)
		h, _ := q.Host(name)
		if n.Address != want || h.Address() != want || q.DNS.Records[name+".k.test"] != want {
			t.Errorf("%s: node %s, host %s, DNS %s; want %s", name, n.Address, h.Address(), q.DNS.Records[name+".k.test"], want)
		}
	}
	if h, _ := q.Host("registrar"); h.Address() != netip.MustParseAddr("198.18.10.11") {
		t.Errorf("the registrar, whose address is planned, moved to %s", h.Address())
	}
	rule := q.Rules[len(q.Rules)-1]
	if rule.To != netip.PrefixFrom(a, 32) {
		t.Errorf("the rule for b leads to %s, want %s", rule.To, a)
	}
	if p.Nodes[0].Address != a || p.Rules[len(p.Rules)-1].To != netip.PrefixFrom(b, 32) {
		t.Error("the plan itself was changed")
	}
}

// Both substrates have the same hosts, rules and names; what differs is how they come to be.
func TestOnePlanTwoSubstrates(t *testing.T) {
	k := kindPlan(t, "nodes: 2\n")
	s := spec.Default()
	s.Name, s.Nodes.Count, s.Networks.Domain = "k", 2, "agents.k.test"
	n, err := plan.Make(s)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(k.Rules, n.Rules) {
		t.Errorf("rules differ: %v, %v", k.Rules, n.Rules)
	}
	for _, h := range n.Hosts {
		if other, ok := k.Host(h.Name); !ok || !other.Pooled && other.Address() != h.Address() {
			t.Errorf("%s is %v on kind, %v on netns", h.Name, other, h)
		}
	}
	have := func(p plan.Plan) (names []string) {
		for _, s := range p.Steps {
			names = append(names, strings.Split(s.Name, "/")[0])
		}
		slices.Sort(names)
		return slices.Compact(names)
	}
	for _, step := range have(n) {
		if !slices.Contains(have(k), step) {
			t.Errorf("kind has no step %s", step)
		}
	}
}
