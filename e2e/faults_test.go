package e2e

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// A killed agent stays dead until it is mended, and comes back with the keys that it had.
func agentKilled(l *testLab) {
	t := l.t
	before := l.node("node-1")
	l.run("fault", "agent-killed", "--lab", l.name, "node-1")
	if n := l.node("node-1"); n.State != "agent dead" && n.State != "failed" {
		t.Errorf("with its agent killed node-1 is %s: %s", n.State, n.Detail)
	}
	if out, err := l.try("fault", "agent-killed", "--lab", l.name, "node-1"); err == nil || !strings.Contains(out, "no agent runs on node-1") {
		t.Errorf("an agent that is dead is killed again: %v\n%s", err, out)
	}
	wantOnly(t, failed(l.verify()), "node-1")
	l.run("fault", "agent-killed", "--lab", l.name, "node-1", "--clear")
	if n := l.node("node-1"); n.UUID != before.UUID {
		t.Errorf("it is another agent now: %+v, before %+v", n, before)
	}
	l.passes()
}

// The load balancer's other address is everybody's: the ingress', the router's and the names'. The old one answers nobody.
func loadBalancerMoved(l *testLab) {
	t := l.t
	address := func() string {
		for _, c := range l.status().Components {
			if c.Name == "ingress" {
				return c.Address
			}
		}
		return ""
	}
	before := address()
	l.run("fault", "loadbalancer-moved", "--lab", l.name)
	if now := address(); now == before || now == "" {
		t.Errorf("the ingress has the address %s, before %s", now, before)
	}
	l.passes()
	l.run("fault", "loadbalancer-moved", "--lab", l.name, "--clear")
	if now := address(); now != before {
		t.Errorf("the ingress has the address %s, before %s", now, before)
	}
	l.passes()
}

// clockWrong gives the registrar and its programs another time, and the right one again; attestation does not ask it.
func clockWrong(l *testLab) {
	t := l.t
	off := func() time.Duration {
		t.Helper()
		said, err := strconv.ParseInt(docker(t, "exec", "keylab-"+l.name+"-registrar", "date", "+%s"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.Until(time.Unix(said, 0)).Round(time.Hour)
	}
	l.run("fault", "clock-skew", "--lab", l.name, "--component", "registrar", "--set", "by=26h")
	if d := off(); d != 26*time.Hour {
		t.Errorf("the registrar's clock is off by %s, want 26h", d)
	}
	l.run("fault", "clock-skew", "--lab", l.name, "--component", "registrar", "--clear")
	if d := off(); d != 0 {
		t.Errorf("after that the registrar's clock is off by %s", d)
	}
	l.passes()
}

// A verifier that can write nothing does not count any more; with room on its disk it goes on with what it had.
func databaseFull(l *testLab) {
	t := l.t
	l.run("fault", "database-full", "--lab", l.name, "--component", "verifier")
	if f := failed(l.verify()); !slices.Contains(f, "attested node-1") || !slices.Contains(f, "attested node-2") {
		t.Errorf("with the verifier's disk full these fail: %q", f)
	}
	l.run("fault", "database-full", "--lab", l.name, "--component", "verifier", "--clear")
	l.passes()
}
