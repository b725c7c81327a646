package plan_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylab.dev/keylab/lab/plan"
)

// netip's types have no exported fields.
var byValue = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

// A lab that one node has joined is planned as one that had it from the beginning; and without it again, as it was.
func TestJoin(t *testing.T) {
	s := decode(t, head+"name: x\nnodes: 3\n")
	before, want := mustMake(t, decode(t, head+"name: x\nnodes: 2\n")), mustMake(t, s)
	got, err := before.Join(s, "node-3")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, byValue); d != "" {
		t.Errorf("-made at once +joined:\n%s", d)
	}
	left, err := got.Leave("node-3")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, left, byValue); d != "" {
		t.Errorf("-before +left again:\n%s", d)
	}
	if d := cmp.Diff(mustMake(t, decode(t, head+"name: x\nnodes: 2\n")), before, byValue); d != "" {
		t.Errorf("the plan that was joined has changed:\n%s", d)
	}
}

// Who joins gets an address that is free and a number that nobody had last; the others keep theirs.
func TestJoinAfterLeave(t *testing.T) {
	p := mustMake(t, decode(t, head+"name: x\nnodes: 3\n"))
	p, err := p.Leave("node-1")
	if err != nil {
		t.Fatal(err)
	}
	s := decode(t, head+"name: x\nnodes: [{name: node-2}, {name: node-3}, {name: a}]\n")
	free := netip.MustParseAddr("198.18.20.11")
	joined, err := p.Join(s, "a")
	if a, _ := joined.Node("a"); err != nil || a.Address != free || a.Number != 4 || joined.DNS.Records["a.x.test"] != free {
		t.Errorf("%v, %+v", err, a)
	}
	joined, err = p.Join(s, "a", free)
	if a, _ := joined.Node("a"); err != nil || a.Address != netip.MustParseAddr("198.18.20.14") {
		t.Errorf("an address that is taken otherwise: %v, %+v", err, a)
	}
	if name := joined.FreeNodeName(); name != "node-4" {
		t.Errorf("the next name is %s", name)
	}
	if _, err := joined.Join(s, "a"); err == nil || !strings.Contains(err.Error(), `has a host "a" already, at 198.18.20.14`) {
		t.Errorf("joined twice: %v", err)
	}
	if _, err := joined.Leave("b"); err == nil || !strings.Contains(err.Error(), "it has node-2, node-3, a") {
		t.Errorf("one that is not there: %v", err)
	}
}

// A network that is full takes nobody in.
func TestJoinFullNetwork(t *testing.T) {
	text := "name: x\nnetworks: {cluster: {cidr: 198.18.20.0/26}}\nnodes: "
	p := mustMake(t, decode(t, head+text+"2\n"))
	s := decode(t, head+text+"3\n")
	var taken []netip.Addr
	for a := p.Network(plan.Cluster).Prefix.Addr(); p.Network(plan.Cluster).Prefix.Contains(a); a = a.Next() {
		taken = append(taken, a)
	}
	if _, err := p.Join(s, "node-3", taken...); err == nil || !strings.Contains(err.Error(), "has no address left") {
		t.Errorf("%v", err)
	}
}

// Another agent on one node is planned as one that it had from the beginning, at the place that the node has.
func TestWithAgent(t *testing.T) {
	p := mustMake(t, decode(t, head+"name: x\nnodes: 3\n"))
	s := decode(t, head+"name: x\nnodes: [{}, {agent: {kind: binary, path: /x}}, {}]\n")
	got, err := p.WithAgent(s, "node-2")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(mustMake(t, s), got, byValue); d != "" {
		t.Errorf("-made at once +replaced:\n%s", d)
	}
	if n, _ := p.Node("node-2"); n.Agent.Kind != "go" {
		t.Error("the plan that was changed has changed itself")
	}
	if _, err := p.WithAgent(s, "a"); err == nil || !strings.Contains(err.Error(), "it has node-1, node-2, node-3") {
		t.Errorf("one that is not there: %v", err)
	}
}

// What the services were not configured for is told before anything is done.
func TestServes(t *testing.T) {
	p := mustMake(t, decode(t, head+"name: x\nnodes: [{name: a}]\n"))
	for node, want := range map[string]string{
		"{name: b}": "", "{name: b, tpm: {ekAlgorithm: ecc-p256}}": "",
		"{name: b, ek: {issuer: stranger}}":        "no stranger's CA",
		"{name: b, agent: {akAlgorithm: ecdsa}}":   "would not accept it",
		"{name: b, agent: {hashAlgorithm: sha1}}":  "would not accept it",
		"{name: b, measuredBoot: {enabled: true}}": "not configured for that",
	} {
		s := decode(t, head+"name: x\nnodes: [{name: a}, "+node+"]\n")
		next, err := p.Join(s, "b")
		if err != nil {
			t.Errorf("%s: %v", node, err)
			continue
		}
		if err := p.Serves(next); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", node, err, want)
		}
		if err := next.Serves(p); err != nil {
			t.Errorf("without %s again: %v", node, err)
		}
	}
}

// A worker joins a cluster as one that was there from the beginning, at an address that no other has, or has really got; and it leaves.
func TestJoinOnKind(t *testing.T) {
	const head = head + "name: x\nsubstrate: kind\n"
	s := decode(t, head+"nodes: 3\n")
	before, want := mustMake(t, decode(t, head+"nodes: 2\n")), mustMake(t, s)
	got, err := before.Join(s, "node-3")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, byValue); d != "" {
		t.Errorf("-made at once +joined:\n%s", d)
	}
	left, err := got.Leave("node-1")
	if err != nil {
		t.Fatal(err)
	}
	// node-2 got the address that was meant for node-3, and that the reverse.
	real := netip.MustParseAddr("198.18.20.67")
	again, err := left.Join(decode(t, head+"nodes: [{name: node-2}, {name: node-3}, {name: a}]\n"), "a", netip.MustParseAddr("198.18.20.65"), real)
	if err != nil {
		t.Fatal(err)
	}
	if a, _ := again.Node("a"); a.KubernetesName != "keylab-x-worker4" || a.Address != netip.MustParseAddr("198.18.20.68") {
		t.Errorf("who joins is %s at %s", a.KubernetesName, a.Address)
	}
}

// A network for whose nodes Docker has no address left takes nobody in, though there are others.
func TestJoinFullPool(t *testing.T) {
	const head = head + "name: x\nsubstrate: kind\n"
	p := mustMake(t, decode(t, head+"nodes: 2\n"))
	var taken []netip.Addr
	for a := p.Network(plan.Cluster).Pool.Addr(); p.Network(plan.Cluster).Pool.Contains(a); a = a.Next() {
		taken = append(taken, a)
	}
	if _, err := p.Join(decode(t, head+"nodes: 3\n"), "node-3", taken...); err == nil || !strings.Contains(err.Error(), "has no address left") {
		t.Errorf("%v", err)
	}
}
