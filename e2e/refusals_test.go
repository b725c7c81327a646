package e2e

import (
	"bufio"
	"strings"
	"syscall"
	"testing"

	"keylab.dev/keylab/lab/control"
)

// A stranger's CA on one worker: refused by name, the others attested.
func TestStranger(t *testing.T) {
	l := newLab(t, "e2e-stranger", 42, "nodes:\n- name: good\n- name: bad\n  ek: {issuer: stranger}\n")
	l.up()
	states := map[string]string{}
	for _, n := range l.status().Nodes {
		states[n.Name] = n.State
		if n.Name == "bad" && !strings.Contains(n.Detail, "EK") {
			t.Errorf("the refusal does not say why: %q", n.Detail)
		}
	}
	if states["good"] != "attested" || states["bad"] != "refused" {
		t.Errorf("states %v", states)
	}
	wantOnly(t, failed(l.verify()), "bad")
}

// Killed at whatever step, an up leaves what one down takes away.
func TestUpKilled(t *testing.T) {
	l := newLab(t, "e2e-killed", 44, "nodes: 1\n")
	for _, step := range []string{"images", "tpm/node-1", "network", "dns", "registrar", "cluster", "load-balancer", "ingress", "agents", "attest/node-1"} {
		t.Run("after "+step, func(t *testing.T) {
			l := l.on(t)
			if !killAfter(l, step) {
				t.Fatalf("up ended before it had done %s", step)
			}
			if step == "network" {
				if out := l.run("list"); !strings.Contains(out, l.name) {
					t.Errorf("list does not show the half-made lab:\n%s", out)
				}
				if s := l.status(); s.State != control.Starting {
					t.Errorf("a half-made lab is %s", s.State)
				}
			}
			l.run("down", l.name)
			if s := strings.TrimSpace(docker(t, "ps", "--all", "--quiet", "--filter", "name=keylab-e2e-killed") + docker(t, "network", "ls", "--quiet", "--filter", "name=keylab-e2e-killed")); s != "" {
				t.Errorf("left after down: %s", s)
			}
		})
	}
	l.run("wipe", l.name)
	if s := left(t, l.name); s != "" {
		t.Errorf("left after wipe: %s", s)
	}
}

// killAfter starts an up, kills it as soon as it says that it has done the step, and tells whether it has said so.
func killAfter(l *testLab, step string) bool {
	l.t.Helper()
	cmd := l.command("up", "-f", l.spec, "-v")
	out, err := cmd.StderrPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	lines, seen := bufio.NewScanner(out), false
	var said []string
	for !seen && lines.Scan() {
		said = append(said, lines.Text())
		f := strings.Fields(lines.Text())
		seen = len(f) >= 2 && f[0] == "✓" && (f[1] == step || strings.HasPrefix(step, f[1]+"/") && len(f) > 2)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		l.t.Log(err)
	}
	_ = cmd.Wait() // killed
	if !seen {
		l.t.Log(strings.Join(said, "\n"))
	}
	return seen
}

// Interrupted, an up takes back what it did.
func TestUpInterrupted(t *testing.T) {
	l := newLab(t, "e2e-interrupted", 46, "nodes: 1\n")
	cmd := l.command("up", "-f", l.spec, "-v")
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var said []string
	for lines.Scan() {
		said = append(said, lines.Text())
		if strings.HasPrefix(lines.Text(), "✓ registrar") { // the cluster is being made
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Error("an interrupted up succeeds")
	}
	if s := left(t, l.name); s != "" {
		t.Errorf("left behind: %s\n%s", s, strings.Join(said, "\n"))
	}
	if out := l.run("list"); strings.Contains(out, l.name) {
		t.Errorf("list shows a lab that never was:\n%s", out)
	}
}

// One clear message for what cannot be, and nothing touched.
func TestRefusals(t *testing.T) {
	l := newLab(t, "e2e-refused", 48, "nodes: 1\n")
	docker(t, "network", "create", "--subnet", "198.18.49.0/24", "keylab-e2e-taken")
	t.Cleanup(func() { docker(t, "network", "rm", "keylab-e2e-taken") })
	out, err := l.try("up", "-f", l.spec)
	if err == nil || !strings.Contains(out, "198.18.49.0/24, overlaps Docker's network keylab-e2e-taken") || !strings.Contains(out, "networks.cluster.cidr") {
		t.Errorf("a range that is taken: %v\n%s", err, out)
	}
	for _, c := range []struct{ args, want string }{
		{"--nodes 5000 --lab big", "1 to 500"},
		{"--agent-image nowhere.test/agent:1 --lab image", "nowhere.test/agent:1"},
		{"--tpm-backend simulator --lab sim", "simulator"},
	} {
		out, err := l.try(append([]string{"up", "--substrate", "kind", "--images", "local"}, strings.Fields(c.args)...)...)
		if err == nil || !strings.Contains(out, c.want) {
			t.Errorf("up %s: %v\n%s", c.args, err, out)
		}
	}
	if out := l.run("list"); strings.Contains(out, "kind") {
		t.Errorf("a refused lab is there:\n%s", out)
	}
}
