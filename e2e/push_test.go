package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// The push model on Kubernetes: nothing in the cluster can be reached, all agents are proved by what the verifier has of them, and a node that is
// restarted goes on.
func TestPush(t *testing.T) {
	turn(t)
	l := newLab(t, "e2e-push", 56, "nodes: 2\n")
	text, err := os.ReadFile(l.spec)
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.Replace(string(text), "  quoteInterval: 500ms\n", "  quoteInterval: 1s\n  mode: push\n", 1))
	if err := os.WriteFile(l.spec, text, 0o600); err != nil {
		t.Fatal(err)
	}
	l.up()
	seen := map[string]bool{}
	for _, c := range l.passes().Checks {
		seen[c.ID+" "+c.Subject] = true
	}
	for _, want := range []string{"challenge node-1", "impostor node-2", "open node-1 → verifier:8881/tcp", "blocked verifier → node-2:9002/tcp", "blocked tenant → ingress:443/tcp"} {
		if !seen[want] {
			t.Errorf("verify makes no check %q", want)
		}
	}
	if s := l.kubectl("get", "services,ingresses", "--all-namespaces", "-o", "name"); strings.Contains(s, "agent") || strings.Contains(s, "keylab-ingress") {
		t.Errorf("agents or an ingress have a Service:\n%s", s)
	}
	l.run("node", "reboot", "--lab", l.name, "node-1")
	await(t, "node-1 to be attested", func() string { return strings.TrimPrefix(l.node("node-1").State, "attested") })
	l.passes()
	l.run("tpm", "--lab", l.name, "node-2", "--", "tpm2_pcrextend", "15:sha256="+strings.Repeat("11", 32))
	await(t, "the verifier to fail node-2", func() string { return strings.TrimPrefix(l.node("node-2").State, "failed") })
	if f := failed(l.verify()); !slices.Equal(f, []string{"challenge node-2", "attested node-2"}) {
		t.Errorf("with a PCR against the policy these fail: %q", f)
	}
}
