package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keylab.dev/keylab/lab/control"
)

// A lab of two workers through its whole life: proved, broken in every way that it is for, mended, and gone.
func TestLab(t *testing.T) {
	t.Parallel()
	l := newLab(t, "e2e-lab", 40, "nodes: 2\n")
	l.up()
	if f := failed(l.verify()); len(f) > 0 {
		t.Fatalf("a new lab fails: %q", f)
	}
	t.Run("five points", func(t *testing.T) {
		points := map[string]int{}
		for _, c := range l.verify().Checks {
			points[c.Point]++
			if c.Evidence == "" {
				t.Errorf("%s %s has no evidence", c.ID, c.Subject)
			}
		}
		if len(points) != 5 {
			t.Errorf("points %v, want five", points)
		}
	})
	t.Run("no ports", func(t *testing.T) {
		// kind itself publishes the API server, on the loopback alone.
		for _, name := range strings.Fields(docker(t, "ps", "--format", "{{.Names}}", "--filter", "name=keylab-e2e-lab-")) {
			if ports := docker(t, "port", name); ports != "" && !(strings.HasSuffix(name, "-control-plane") && strings.HasPrefix(ports, "6443/tcp -> 127.0.0.1:") && !strings.Contains(ports, "\n")) {
				t.Errorf("container %s has ports on the machine: %s", name, ports)
			}
		}
	})
	t.Run("the name is taken", func(t *testing.T) {
		l := l.on(t)
		out, err := l.try("up", "--lab", l.name, "--substrate", "netns")
		if err == nil || !strings.Contains(out, "which is on Kubernetes: it is running already") || !strings.Contains(out, "keylab wipe "+l.name) {
			t.Errorf("a lab of namespaces takes the name of one on Kubernetes: %v: %s", err, out)
		}
	})
	t.Run("one DNS server", func(t *testing.T) {
		l := l.on(t)
		if got := l.kubectl("-n", "kube-system", "get", "pods", "-l", "k8s-app=kube-dns", "-o", "jsonpath={.items[*].status.containerStatuses[0].ready}"); got != "true" {
			t.Errorf("DNS servers of the cluster that are ready: %q, want one", got)
		}
	})
	t.Run("agent pod deleted", func(t *testing.T) { podDeleted(l.on(t)) })
	t.Run("node restarted", func(t *testing.T) { nodeRestarted(l.on(t)) })
	t.Run("node stopped", func(t *testing.T) { nodeStopped(l.on(t)) })
	t.Run("members", func(t *testing.T) { members(l.on(t)) })
	t.Run("another agent that is none", func(t *testing.T) { noOtherAgent(l.on(t)) })
	t.Run("TPM replaced", func(t *testing.T) { tpmReplaced(l.on(t)) })
	t.Run("TPMs exchanged", func(t *testing.T) { tpmsExchanged(l.on(t)) })
	t.Run("disk lost", func(t *testing.T) { diskLost(l.on(t)) })
	t.Run("TPM killed", func(t *testing.T) { tpmKilled(l.on(t)) })
	t.Run("routes swapped", func(t *testing.T) { routesSwapped(l.on(t)) })
	t.Run("agent frozen", func(t *testing.T) {
		l := l.on(t)
		l.run("fault", "dead-agent", "--lab", l.name, "node-1")
		wantOnly(t, failed(l.verify()), "node-1")
		l.run("fault", "dead-agent", "--lab", l.name, "node-1", "--clear")
		l.passes()
	})
	t.Run("agent killed", func(t *testing.T) { agentKilled(l.on(t)) })
	t.Run("load balancer moved", func(t *testing.T) { loadBalancerMoved(l.on(t)) })
	t.Run("a wrong clock", func(t *testing.T) { clockWrong(l.on(t)) })
	t.Run("database full", func(t *testing.T) { databaseFull(l.on(t)) })
	t.Run("node cut off", func(t *testing.T) {
		l := l.on(t)
		l.run("fault", "partition", "--lab", l.name, "node-1")
		f := failed(l.verify())
		if !slices.Contains(f, "attested node-1") || slices.ContainsFunc(f, func(s string) bool { return strings.HasSuffix(s, " node-2") }) {
			t.Errorf("with node-1 cut off these fail: %q", f)
		}
		l.run("fault", "partition", "--lab", l.name, "node-1", "--clear")
		// At once: what is mended is whole, though Kubernetes may be about to give the node up.
		if wrong := complaints(l.verify()); wrong != "" {
			t.Errorf("after the partition:\n%s", wrong)
		}
	})
	t.Run("router open", func(t *testing.T) {
		l := l.on(t)
		l.run("fault", "open-router", "--lab", l.name)
		if wrong := complaints(l.verify(), "blocked", "drops-counted"); wrong != "" {
			t.Errorf("an open router breaks\n%s", wrong)
		}
		l.run("fault", "open-router", "--lab", l.name, "--clear")
		l.passes()
	})
	t.Run("router stopped", func(t *testing.T) { routerStopped(l.on(t)) })
	t.Run("a pod of one's own", func(t *testing.T) { ownPod(l.on(t)) })
	t.Run("DNS conformance", func(t *testing.T) { dnsConforms(l.on(t)) })
	t.Run("router conformance", func(t *testing.T) { routerConforms(l.on(t)) })
	t.Run("manifests", func(t *testing.T) { manifestsAgain(l.on(t)) })
	t.Run("verbs", func(t *testing.T) { verbs(l.on(t)) })

	before := l.status()
	l.run("down", l.name)
	if s := docker(t, "ps", "--all", "--quiet", "--filter", "name=keylab-e2e-lab-"); s != "" {
		t.Errorf("containers after down: %s", s)
	}
	t.Run("up again", func(t *testing.T) {
		l := l.on(t)
		l.up()
		l.passes()
		for i, n := range l.status().Nodes {
			if n.UUID != before.Nodes[i].UUID || n.EKSerial != before.Nodes[i].EKSerial {
				t.Errorf("%s is another one: %s and %s, before %s and %s", n.Name, n.UUID, n.EKSerial, before.Nodes[i].UUID, before.Nodes[i].EKSerial)
			}
		}
	})
	l.run("wipe", l.name)
	if s := left(t, l.name); s != "" {
		t.Errorf("left after wipe: %s", s)
	}
}

// on is the lab in a subtest.
func (l *testLab) on(t *testing.T) *testLab {
	c := *l
	c.t = t
	return &c
}

// wantOnly checks that something failed, and nothing that is not about the nodes.
func wantOnly(t *testing.T, failed []string, nodes ...string) {
	t.Helper()
	if len(failed) == 0 {
		t.Error("no check failed")
	}
	for _, f := range failed {
		if !slices.ContainsFunc(nodes, func(n string) bool { return strings.HasSuffix(f, " "+n) }) {
			t.Errorf("%s failed, which is not about %v", f, nodes)
		}
	}
}

func podIP(l *testLab, node string) string {
	return l.kubectl("-n", "keylab-agents", "get", "pods", "-l", "keylab.dev/node="+node, "--field-selector", "status.phase=Running", "-o", "jsonpath={.items[*].status.podIP}")
}

// The pod comes back with another address, and the verifier goes on by the same hostname.
func podDeleted(l *testLab) {
	t := l.t
	before, old := l.node("node-1"), podIP(l, "node-1")
	read := l.following("node-1")
	starts := func() int { return strings.Count(read(), "registered and listening") }
	await(t, "the log to be followed", func() string {
		if starts() == 1 {
			return ""
		}
		return fmt.Sprintf("it has %d starts of the agent", starts())
	})
	l.kubectl("-n", "keylab-agents", "delete", "pod", "-l", "keylab.dev/node=node-1")
	await(t, "another pod, which the verifier asks", func() string {
		n := l.node("node-1")
		if now := podIP(l, "node-1"); now == old || now == "" {
			return "the pod's address is " + now
		}
		l.askAgain(n)
		if n.State != "attested" || n.AttestationCount <= before.AttestationCount+2 {
			return fmt.Sprintf("node-1 is %s, %d attestations", n.State, n.AttestationCount)
		}
		return ""
	})
	if n := l.node("node-1"); n.UUID != before.UUID || n.Hostname != before.Hostname {
		t.Errorf("it is another agent now: %+v, before %+v", n, before)
	}
	await(t, "the log to go on with the other pod's", func() string {
		if starts() == 2 {
			return ""
		}
		return fmt.Sprintf("it has %d starts of the agent", starts())
	})
	l.passes()
}

// following runs `keylab logs --follow` until the end of the test, and returns how to read what it has printed.
func (l *testLab) following(component string) (read func() string) {
	l.t.Helper()
	path := filepath.Join(l.t.TempDir(), "followed")
	out, err := os.Create(path)
	if err != nil {
		l.t.Fatal(err)
	}
	cmd := l.command("logs", "--lab", l.name, "--follow", component)
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	out.Close() // the command has its own
	l.t.Cleanup(func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			l.t.Errorf("end keylab logs: %v", err)
		}
		_ = cmd.Wait() // interrupted
	})
	return func() string {
		text, err := os.ReadFile(path)
		if err != nil {
			l.t.Fatal(err)
		}
		return string(text)
	}
}

// askAgain does what an operator would for a node that was away for longer than the verifier's retries. It may be away still, and is asked again later.
func (l *testLab) askAgain(n control.Node) {
	if n.State == "failed" {
		_, _ = l.try("node", "reactivate", "--lab", l.name, n.Name)
	}
}

// The node's EK and UUID are the same after its restart, and attestation goes on.
func nodeRestarted(l *testLab) {
	t := l.t
	before := l.node("node-1")
	docker(t, "restart", "keylab-e2e-lab-worker")
	await(t, "node-1 to be attested again", func() string {
		n := l.node("node-1")
		l.askAgain(n)
		if n.State != "attested" || n.AttestationCount <= before.AttestationCount+2 {
			return fmt.Sprintf("node-1 is %s, %d attestations: %s", n.State, n.AttestationCount, n.Detail)
		}
		return ""
	})
	if n := l.node("node-1"); n.UUID != before.UUID || n.EKSerial != before.EKSerial {
		t.Errorf("another TPM: %s %s, before %s %s", n.UUID, n.EKSerial, before.UUID, before.EKSerial)
	}
	l.passes()
}

// A node that is off is shown as that, and only what is about it fails; started, it is the same node with the same address.
func nodeStopped(l *testLab) {
	t := l.t
	before := l.node("node-2")
	l.run("node", "stop", "--lab", l.name, "node-2")
	if n := l.node("node-2"); n.State != "off" {
		t.Errorf("node-2 is %s: %s", n.State, n.Detail)
	}
	l.run("net", l.name)
	f := failed(l.verify())
	if !slices.Contains(f, "quote node-2") || slices.Contains(f, "quote node-1") || slices.Contains(f, "attested node-1") {
		t.Errorf("with node-2 off these fail: %q", f)
	}
	l.run("node", "start", "--lab", l.name, "node-2")
	l.run("node", "reactivate", "--lab", l.name, "node-2")
	if n := l.node("node-2"); n.UUID != before.UUID || n.EKSerial != before.EKSerial || n.Address != before.Address {
		t.Errorf("it is another node now: %+v, before %+v", n, before)
	}
	l.passes()
}

// Another TPM is another UUID, hostname and EK certificate, which the tenant has to enrol.
func tpmReplaced(l *testLab) {
	t := l.t
	before := l.node("node-2")
	l.run("node", "replace-tpm", "--lab", l.name, "node-2")
	n := l.node("node-2")
	if n.UUID == before.UUID || n.Hostname == before.Hostname || n.EKSerial == before.EKSerial || n.State != "registered" {
		t.Errorf("with another TPM it is %+v, before %+v", n, before)
	}
	l.run("node", "enrol", "--lab", l.name, "node-2")
	l.passes()
}

// TPMs that have changed places take their UUIDs along. The agents' keys stay, so that the registrar refuses them until they are enrolled anew.
func tpmsExchanged(l *testLab) {
	t := l.t
	one, two := l.node("node-1"), l.node("node-2")
	for range 2 { // there and back
		said := l.run("node", "tpm-swap", "--lab", l.name, "node-1", "node-2")
		one, two = two, one
		if a, b := l.node("node-1"), l.node("node-2"); a.UUID != one.UUID || a.EKSerial != one.EKSerial || b.UUID != two.UUID || a.State != "agent dead" || b.State != "agent dead" {
			t.Errorf("with exchanged TPMs they are %+v and %+v, want UUIDs %s and %s: %s", a, b, one.UUID, two.UUID, said)
		}
		l.run("node", "enrol", "--lab", l.name, "node-1")
		l.run("node", "enrol", "--lab", l.name, "node-2")
	}
	l.passes()
}

// A machine that was installed anew has the UUID that it had, by its TPM, and an agent that the registrar refuses until it is enrolled anew.
func diskLost(l *testLab) {
	t := l.t
	before := l.node("node-2")
	l.run("node", "reimage", "--lab", l.name, "node-2")
	if n := l.node("node-2"); n.UUID != before.UUID || n.EKSerial != before.EKSerial || n.State != "agent dead" || !strings.Contains(n.Detail, "403") {
		t.Errorf("installed anew it is %+v, before %+v", n, before)
	}
	l.run("node", "enrol", "--lab", l.name, "node-2")
	l.passes()
}

// Only the node whose TPM died is affected.
func tpmKilled(l *testLab) {
	docker(l.t, "kill", "keylab-e2e-lab-tpm-node-1")
	if n := l.node("node-1"); n.State != "tpm dead" {
		l.t.Errorf("node-1 is %s", n.State)
	}
	wantOnly(l.t, failed(l.verify()), "node-1")
	l.run("fault", "dead-tpm", "--lab", l.name, "node-1", "--clear")
	l.passes()
}

// The verifier fails both nodes, and verify names them.
func routesSwapped(l *testLab) {
	l.run("fault", "swapped-route", "--lab", l.name, "node-1", "node-2")
	await(l.t, "the verifier to give both up", func() string {
		a, b := l.node("node-1").State, l.node("node-2").State
		if a == "failed" && b == "failed" {
			return ""
		}
		return a + ", " + b
	})
	f := failed(l.verify())
	wantOnly(l.t, f, "node-1", "node-2")
	for _, want := range []string{"certificate node-1", "certificate node-2", "quote node-1", "quote node-2"} {
		if !slices.Contains(f, want) {
			l.t.Errorf("verify does not name %s among %q", want, f)
		}
	}
	l.run("fault", "swapped-route", "--lab", l.name, "node-1", "node-2", "--clear")
	l.passes()
}

// Without the router nothing answers across, whichever way.
func routerStopped(l *testLab) {
	docker(l.t, "stop", "keylab-e2e-lab-router")
	r := l.verify()
	for _, c := range r.Checks {
		crossing := c.ID == "open" && strings.Contains(c.Subject, "→")
		if crossing && c.Status == "pass" {
			l.t.Errorf("%s %s passes without a router", c.ID, c.Subject)
		}
	}
	if s := l.status(); s.State != control.Degraded {
		l.t.Errorf("the lab is %s without its router", s.State)
	}
	docker(l.t, "start", "keylab-e2e-lab-router")
	await(l.t, "the router to run", func() string {
		if _, err := l.try("net", l.name); err != nil {
			return err.Error()
		}
		return ""
	})
	for _, n := range []string{"node-1", "node-2"} {
		if l.node(n).State == "failed" { // no answer for longer than the verifier's retries
			l.run("fault", "dead-agent", "--lab", l.name, n, "--clear")
		}
	}
	l.passes()
}

// A user's pod gets the node's TPM by asking for it, with no more rights than "restricted" gives.
func ownPod(l *testLab) {
	example, err := os.ReadFile("../examples/kind/tpm2-tools-pod.yaml")
	if err != nil {
		l.t.Fatal(err)
	}
	tools := docker(l.t, "inspect", "--format", "{{.Config.Image}}", "keylab-e2e-lab-tpm-node-1")
	file := filepath.Join(l.t.TempDir(), "pod.yaml")
	text := strings.ReplaceAll(string(example), "keylab.test/tools:TAG", tools)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.kubectl("apply", "-f", file)
	l.kubectl("-n", "keylab-agents", "wait", "--for=condition=Ready", "--timeout=120s", "pod/tpm2-tools")
	node := l.kubectl("-n", "keylab-agents", "get", "pod", "tpm2-tools", "-o", "jsonpath={.spec.nodeName}")
	name := "node-1"
	if strings.HasSuffix(node, "worker2") {
		name = "node-2"
	}
	const extended = "tpm2_pcrextend 23:sha256=1111111111111111111111111111111111111111111111111111111111111111"
	l.kubectl(append([]string{"-n", "keylab-agents", "exec", "tpm2-tools", "--"}, strings.Fields(extended)...)...)
	inPod := l.kubectl("-n", "keylab-agents", "exec", "tpm2-tools", "--", "tpm2_pcrread", "sha256:23")
	if outside := l.run("tpm", "--lab", l.name, name, "--", "tpm2_pcrread", "sha256:23"); outside != inPod || strings.Contains(inPod, "0x00000000") {
		l.t.Errorf("the pod's TPM is not that of %s: PCR 23 is %q there, and %q in the pod", name, outside, inPod)
	}
	l.kubectl("delete", "-f", file)
}

// What manifests prints is what the lab is made of: applied again it changes nothing.
func manifestsAgain(l *testLab) {
	if out := l.run("manifests", l.name); strings.Contains(out, "PRIVATE") || !strings.Contains(out, "keylab.dev/tpm") {
		l.t.Errorf("manifests without --secrets give keys away, or are none: %d bytes", len(out))
	}
	file := filepath.Join(l.t.TempDir(), "lab.yaml")
	l.run("manifests", l.name, "--secrets", "-o", file)
	pods := l.kubectl("-n", "keylab-agents", "get", "pods", "-o", "name")
	l.kubectl("apply", "--server-side", "--field-manager=keylab", "-f", file)
	if now := l.kubectl("-n", "keylab-agents", "get", "pods", "-o", "name"); now != pods {
		l.t.Errorf("applying them again replaced pods: %s, before %s", now, pods)
	}
}

// What a user does by hand.
func verbs(l *testLab) {
	for _, v := range []struct {
		args []string
		want string
	}{
		{[]string{"list"}, "2 of 2 attested"},
		{[]string{"net", l.name}, "services-to-ingress"},
		{[]string{"exec", "--lab", l.name, "node-1", "--", "hostname"}, "keylab-e2e-lab-worker"},
		{[]string{"exec", "--lab", l.name, "tenant", "--", "cat", "/etc/resolv.conf"}, "198.18.40.53"},
		{[]string{"tpm", "--lab", l.name, "node-2", "--", "tpm2_pcrread", "sha256:16"}, "sha256"},
		{[]string{"logs", "--lab", l.name, "node-1"}, "integrity"},
		{[]string{"logs", "--lab", l.name, "verifier"}, "keylime.verifier"},
		{[]string{"ek", "list", "--lab", l.name}, "node-2"},
	} {
		if out := l.run(v.args...); !strings.Contains(out, v.want) {
			l.t.Errorf("keylab %s does not print %q:\n%.2000s", strings.Join(v.args, " "), v.want, out)
		}
	}
	if out, err := l.try("tenant", "--lab", l.name, "--", "-c", "reglist"); err != nil || !strings.Contains(out, l.node("node-1").UUID) {
		l.t.Errorf("tenant reglist: %v\n%s", err, out)
	}
}
