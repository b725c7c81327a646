package netlab

import (
	"net/netip"
	"strings"
	"testing"
)

func host32(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, 32) }

var (
	ruleRegister = Rule{Name: "register", From: cluster.Prefix, To: host32(registrarAddr), Protocol: "tcp", Port: 8890}
	ruleIngress  = Rule{Name: "to-ingress", From: services.Prefix, To: host32(ingressAddr), Protocol: "tcp", Port: 443}
	bothWays     = []Direction{
		{Name: "services-to-cluster", From: services.Prefix, To: cluster.Prefix},
		{Name: "cluster-to-services", From: cluster.Prefix, To: services.Prefix},
	}
)

func applyRules(t *testing.T, l *Lab, rules ...Rule) *Router {
	t.Helper()
	r, err := ApplyRules(l.Host("router"), rules, bothWays...)
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

func TestRouterLetsThroughWhatARuleNamesAndCountsIt(t *testing.T) {
	l := buildLab(t, testTopology(2))
	r := applyRules(t, l, ruleRegister, ruleIngress)
	serveOn(t, l.Host("registrar"), ":8890")
	for n := uint64(1); n <= 3; n++ {
		if got := ask(t, l.Host("node1"), "198.18.10.11:8890"); got != "198.18.20.11" {
			t.Errorf("the registrar saw %s: the source address was not preserved", got)
		}
		if got := packets(t, r, "register"); got != n {
			t.Errorf("after %d connections the rule's counter is %d", n, got)
		}
	}
	if packets(t, r, CounterEstablished) == 0 {
		t.Error("no packet of an established connection was counted")
	}
	if got := packets(t, r, CounterDropped); got != 0 {
		t.Errorf("%d packets were dropped", got)
	}
	if got := packets(t, r, "to-ingress"); got != 0 {
		t.Errorf("the other rule counted %d", got)
	}
}

func TestRouterDropsWhatNoRuleNamesAndCountsItByDirection(t *testing.T) {
	l := buildLab(t, testTopology(2))
	r := applyRules(t, l, ruleRegister, ruleIngress)
	for _, listen := range []struct{ host, addr string }{
		{"registrar", ":8890"}, {"registrar", ":8891"}, {"verifier", ":8890"}, {"node1", ":9002"}, {"ingress", ":443"}, {"ingress", ":80"},
	} {
		serveOn(t, l.Host(listen.host), listen.addr)
	}
	for _, c := range []struct{ from, to, direction string }{
		{"node1", "198.18.10.11:8891", "cluster-to-services"},    // another port
		{"node1", "198.18.10.12:8890", "cluster-to-services"},    // another host
		{"verifier", "198.18.20.11:9002", "services-to-cluster"}, // past the ingress
		{"verifier", "198.18.20.200:80", "services-to-cluster"},
		{"registrar", "198.18.20.11:8890", "services-to-cluster"}, // the rule's other way round
	} {
		before := packets(t, r, "dropped-"+c.direction)
		if got := probeTCP(t, l, c.from, c.to); got != OutcomeTimeout {
			t.Errorf("%s to %s: %s, want %s", c.from, c.to, got, OutcomeTimeout)
		}
		if packets(t, r, "dropped-"+c.direction) == before {
			t.Errorf("%s to %s: the drop was not counted", c.from, c.to)
		}
	}
	total := packets(t, r, CounterDropped)
	sum := packets(t, r, "dropped-services-to-cluster") + packets(t, r, "dropped-cluster-to-services")
	if total != sum {
		t.Errorf("%d packets dropped in all, but %d by direction", total, sum)
	}
	for _, c := range []struct{ from, to string }{{"node2", "198.18.10.11:8890"}, {"verifier", "198.18.20.200:443"}, {"node1", "198.18.20.200:80"}} {
		if got := probeTCP(t, l, c.from, c.to); got != OutcomeOpen {
			t.Errorf("%s to %s: %s, want %s", c.from, c.to, got, OutcomeOpen)
		}
	}
}

func TestRouterItselfOnlyAnswersPings(t *testing.T) {
	l := buildLab(t, testTopology(1))
	r := applyRules(t, l)
	serveOn(t, l.Host("router"), ":22")
	if got := ProbeICMP(testContext(t), l.Host("node1"), routerAtClu, patience); got.Outcome != OutcomeOpen {
		t.Error("ping the router:", got)
	}
	if got := probeTCP(t, l, "node1", "198.18.20.2:22"); got != OutcomeTimeout {
		t.Errorf("connect to the router: %s", got)
	}
	if packets(t, r, CounterInput) == 0 || packets(t, r, CounterInputEcho) != 1 {
		c, _ := r.Counters()
		t.Errorf("counters: %+v", c)
	}
	if got := ProbeICMP(testContext(t), l.Host("node1"), registrarAddr, silence); got.Outcome != OutcomeTimeout {
		t.Error("ping through the router:", got)
	}
}

func TestRulesOfEachProtocol(t *testing.T) {
	l := buildLab(t, testTopology(1))
	r := applyRules(t, l,
		Rule{Name: "dns", From: cluster.Prefix, To: host32(registrarAddr), Protocol: "udp", Port: 53},
		Rule{Name: "ping", From: cluster.Prefix, To: services.Prefix, Protocol: "icmp"},
		Rule{Name: "any-tcp", From: host32(nodeAddr(1)), To: host32(verifierAddr), Protocol: "tcp"})
	echoUDP(t, l.Host("registrar"), ":53")
	echoUDP(t, l.Host("registrar"), ":54")
	serveOn(t, l.Host("verifier"), ":12345")
	ctx := testContext(t)
	if got := ProbeUDP(ctx, l.Host("node1"), netip.MustParseAddrPort("198.18.10.11:53"), []byte("x"), patience); got.Outcome != OutcomeOpen {
		t.Error("udp 53:", got)
	}
	if got := ProbeUDP(ctx, l.Host("node1"), netip.MustParseAddrPort("198.18.10.11:54"), []byte("x"), silence); got.Outcome != OutcomeTimeout {
		t.Error("udp 54:", got)
	}
	if got := ProbeICMP(ctx, l.Host("node1"), registrarAddr, patience); got.Outcome != OutcomeOpen {
		t.Error("ping:", got)
	}
	if got := probeTCP(t, l, "node1", "198.18.10.12:12345"); got != OutcomeOpen {
		t.Error("tcp:", got)
	}
	for _, rule := range []string{"dns", "ping", "any-tcp"} {
		if got := packets(t, r, rule); got != 1 {
			t.Errorf("rule %s counted %d", rule, got)
		}
	}
}

func TestSetRulesKeepsCountersOfKeptRules(t *testing.T) {
	l := buildLab(t, testTopology(1))
	r := applyRules(t, l, ruleRegister, ruleIngress)
	serveOn(t, l.Host("registrar"), ":8890")
	serveOn(t, l.Host("registrar"), ":8891")
	ask(t, l.Host("node1"), "198.18.10.11:8890")
	tls := Rule{Name: "register-tls", From: cluster.Prefix, To: host32(registrarAddr), Protocol: "tcp", Port: 8891}
	if err := r.SetRules([]Rule{ruleRegister, tls}); err != nil {
		t.Fatal(err)
	}
	if got := packets(t, r, "register"); got != 1 {
		t.Errorf("the kept rule's counter is %d, want 1", got)
	}
	if _, err := r.Counter("to-ingress"); err == nil {
		t.Error("the removed rule still has a counter")
	}
	ask(t, l.Host("node1"), "198.18.10.11:8891")
	if got := packets(t, r, "register-tls"); got != 1 {
		t.Errorf("the new rule's counter is %d, want 1", got)
	}
	if err := r.SetRules([]Rule{tls}); err != nil {
		t.Fatal(err)
	}
	if got := probeTCP(t, l, "node1", "198.18.10.11:8890"); got != OutcomeTimeout {
		t.Errorf("the removed rule still lets through: %s", got)
	}
}

func TestOpenAllAndRestore(t *testing.T) {
	l := buildLab(t, testTopology(1))
	r := applyRules(t, l, ruleRegister)
	serveOn(t, l.Host("node1"), ":9002")
	if err := r.OpenAll(); err != nil {
		t.Fatal(err)
	}
	if got := probeTCP(t, l, "verifier", "198.18.20.11:9002"); got != OutcomeOpen {
		t.Errorf("with the router open: %s", got)
	}
	if packets(t, r, CounterOpenAll) == 0 {
		t.Error("what the open router let through was not counted")
	}
	if err := r.Restore(); err != nil {
		t.Fatal(err)
	}
	if got := probeTCP(t, l, "verifier", "198.18.20.11:9002"); got != OutcomeTimeout {
		t.Errorf("after Restore: %s", got)
	}
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
