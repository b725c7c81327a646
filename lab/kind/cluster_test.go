package kind

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"keylab.dev/keylab/lab/kind/netroles"
	"keylab.dev/keylab/lab/plan"
)

// What router and DNS read when they are started again has the addresses that Docker gave, not the planned ones.
func TestKeepAddresses(t *testing.T) {
	dir, p := planned(t, "nodes: [{name: a}, {name: b}]\nnetworks: {allow: [{name: in, from: tenant, to: b, port: 22}]}\n")
	l, err := newLab(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, b := p.Nodes[0].Address, p.Nodes[1].Address
	l.facts.Addresses = map[string]netip.Addr{"a": b, "b": a}
	if err := l.keepAddresses(); err != nil {
		t.Fatal(err)
	}
	read := func(name string, into any) {
		data, err := os.ReadFile(filepath.Join(dir.Path, "containers", name+".json"))
		if err == nil {
			err = json.Unmarshal(data, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var router netroles.RouterConfig
	read(plan.Router, &router)
	if last := router.Rules[len(router.Rules)-1]; last.Name != "in" || last.To != netip.PrefixFrom(a, 32) || len(router.Addresses) != 2 {
		t.Errorf("the router would read %+v, want a way to %s", router, a)
	}
	for _, server := range []string{plan.DNS, plan.ClusterDNS} {
		var dns netroles.DNSConfig
		read(server, &dns)
		if got := dns.Zone.Records["b.fake.test"]; got != a {
			t.Errorf("%s would read that b is %s, want %s: %+v", server, got, a, dns.Zone.Records)
		}
	}
}
