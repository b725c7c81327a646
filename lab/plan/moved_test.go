package plan_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
)

func TestIngressMoves(t *testing.T) {
	p, err := plan.Make(spec.Default())
	if err != nil {
		t.Fatal(err)
	}
	old, to := p.Keylime.Ingress.Addr(), p.SpareIngress()
	for _, h := range p.Hosts {
		if h.Address() == to {
			t.Errorf("the spare address %s is that of %s", to, h.Name)
		}
	}
	if another := p.SpareIngress(to); another == to || !another.IsValid() {
		t.Errorf("the spare address is %s, which somebody else has", another)
	}
	moved := p.WithIngress(to)
	tenant, _ := p.Host(plan.Tenant)
	allows := func(p plan.Plan, a netip.Addr) bool {
		return p.Allows(tenant.Address(), netip.AddrPortFrom(a, 443), "tcp")
	}
	if !allows(moved, to) || allows(moved, old) || !allows(p, old) || allows(p, to) {
		t.Error("the rules did not move, or those of the plan before did too")
	}
	if moved.DNS.Wildcard != to || moved.DNS.Records["ingress.keylab.test"] != to || p.DNS.Wildcard != old || p.DNS.Records["ingress.keylab.test"] != old {
		t.Error("the names did not move, or those of the plan before did too")
	}
	if d := cmp.Diff(p, moved.WithIngress(old), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("moved back, the plan is another (-before +after):\n%s", d)
	}
}
