package netlab

import (
	"net/netip"
	"strings"
	"testing"
)

func host32(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, 32) }

var ruleRegister = Rule{Name: "register", From: cluster.Prefix, To: host32(registrarAddr), Protocol: "tcp", Port: 8890}

// applyRules puts rules in force on the router of the tests' topology.
func applyRules(t *testing.T, l *Lab, rules ...Rule) *Router {
	t.Helper()
	r, err := ApplyRules(l.Host("router"), rules)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func packets(t *testing.T, r *Router, counter string) uint64 {
	t.Helper()
	c, err := r.Counter(counter)
	if err != nil {
		t.Fatal(err)
	}
	return c.Packets
}

func probeTCP(t *testing.T, l *Lab, from, to string) Outcome {
	t.Helper()
	result := ProbeTCP(testContext(t), l.Host(from), netip.MustParseAddrPort(to), silence)
	if result.Outcome == OutcomeFailed {
		t.Fatalf("probe from %s to %s: %v", from, to, result)
	}
	return result.Outcome
}

func TestApplyRulesNamesEveryFault(t *testing.T) {
	l := buildLab(t, testTopology(0))
	_, err := ApplyRules(l.Host("router"), []Rule{
		ruleRegister, ruleRegister,
		{Name: "a space", From: cluster.Prefix, To: services.Prefix, Protocol: "tcp"},
		{Name: "dropped-x", From: cluster.Prefix, To: services.Prefix, Protocol: "tcp"},
		{Name: "sctp", From: cluster.Prefix, To: services.Prefix, Protocol: "sctp"},
		{Name: "nowhere", From: cluster.Prefix, Protocol: "tcp"},
		{Name: "icmp", From: cluster.Prefix, To: services.Prefix, Protocol: "icmp", Port: 8},
	})
	if err == nil {
		t.Fatal("no fault found")
	}
	for _, want := range []string{`counter "register" is there already`, `rule "a space"`, `rule "dropped-x"`, `protocol "sctp"`, `rule "nowhere"`, `icmp has no port`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
}

func TestCountConnections(t *testing.T) {
	l := buildLab(t, testTopology(2))
	counters := map[string]*ConnCounter{}
	for _, node := range []string{"node1", "node2"} {
		serveOn(t, l.Host(node), ":9002")
		serveOn(t, l.Host(node), ":9003")
		c, err := CountConnections(l.Host(node), 9002)
		if err != nil {
			t.Fatal(err)
		}
		counters[node] = c
	}
	for range 3 {
		ask(t, l.Host("ingress"), "198.18.20.11:9002")
	}
	ask(t, l.Host("ingress"), "198.18.20.11:9003")
	for node, want := range map[string]uint64{"node1": 3, "node2": 0} {
		if got, err := counters[node].Read(); err != nil || got != want {
			t.Errorf("%s counted %d connections, error %v; want %d", node, got, err, want)
		}
	}
	if err := counters["node1"].Close(); err != nil {
		t.Error(err)
	}
	if _, err := counters["node1"].Read(); err == nil {
		t.Error("a closed counter was read")
	}
}
