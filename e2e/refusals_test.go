package e2e

import (
	"bufio"
	"flag"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
)

// inCluster are the steps that change nothing outside of the cluster's nodes: what there is to take away after them is what there was before.
var inCluster = []string{plan.StepNodes, plan.StepLoadBalancer, plan.StepIngress, plan.StepAgents, plan.StepAgent, plan.StepEnrol, plan.StepAttest}

func isInCluster(step string) bool { return slices.Contains(inCluster, printed(step)) }

// printed is how an up of a lab with one node calls a step: without the node's name.
func printed(step string) string {
	name, _, _ := strings.Cut(step, "/")
	return name
}

// everyStep has TestUpKilled kill an up after each of the steps in the cluster too: some minutes more.
var everyStep = flag.Bool("every-step", false, "kill an up after the steps that change nothing outside of the cluster, too")

// Killed at whatever step, an up leaves what one down takes away. The steps are those of the plan, so that a new one is walked too. One kill costs one
// start as far as that step: seconds for those that need no cluster, and about a whole start for the others. Of those that change nothing outside of the
// cluster's nodes only the last is walked, where Docker must have what it had before the first of them.
func TestUpKilled(t *testing.T) {
	turn(t)
	l := newLab(t, "e2e-killed", 44, "nodes: 1\n")
	p := l.plan()
	if len(p.Steps) < 15 {
		t.Fatalf("the plan has only %d steps", len(p.Steps))
	}
	var last plan.Step
	outside := map[string]bool{}
	for _, step := range p.Steps {
		if isInCluster(step.Name) {
			last = step
		} else {
			outside[printed(step.Name)] = true
		}
	}
	for _, step := range p.Steps {
		if isInCluster(step.Name) && step.Name != last.Name && !*everyStep {
			continue
		}
		t.Run("after "+step.Name, func(t *testing.T) {
			l := l.on(t)
			began := time.Now()
			had, done := "", map[string]bool{}
			killed := killWhen(l, func(seen string) bool {
				done[seen] = true
				if had == "" && !slices.ContainsFunc(slices.Collect(maps.Keys(outside)), func(s string) bool { return !done[s] }) {
					had = has(t, l.name)
				}
				return seen == printed(step.Name)
			})
			if !killed {
				t.Fatalf("up ended before it had done %s", step.Name)
			}
			took := time.Since(began)
			if now := has(t, l.name); step.Name == last.Name && (had == "" || now != had) {
				t.Errorf("the steps in the cluster change what Docker has, or come before others: Docker has\n%s\nand before them\n%s", now, had)
			}
			if step.Name == plan.StepNetwork {
				if out := l.run("list"); !strings.Contains(out, l.name) {
					t.Errorf("list does not show the half-made lab:\n%s", out)
				}
				if s := l.status(); s.State != control.Starting {
					t.Errorf("a half-made lab is %s", s.State)
				}
			}
			bridges := bridgesOf(t, l.name)
			l.run("down", l.name)
			nothingButTPMs(t, l.name, bridges)
			t.Logf("killed after %.1f s, gone %.1f s later", took.Seconds(), (time.Since(began) - took).Seconds())
		})
	}
	l.run("wipe", l.name)
	if s := left(t, l.name); s != "" {
		t.Errorf("left after wipe: %s", s)
	}
}

// has is what Docker has of a lab, by its name: containers with what they mount, which may be a volume without a name, networks and volumes.
func has(t *testing.T, lab string) string {
	t.Helper()
	var lines []string
	for _, c := range strings.Split(docker(t, "ps", "--all", "--format", "{{.Names}},{{.Mounts}}", "--no-trunc", "--filter", "name=keylab-"+lab+"-"), "\n") {
		parts := strings.Split(c, ",")
		slices.Sort(parts[1:])
		lines = append(lines, strings.Join(parts, " "))
	}
	networks := docker(t, "network", "ls", "--format", "{{.Name}}", "--filter", "name=keylab-"+lab+"-")
	volumes := docker(t, "volume", "ls", "--quiet", "--filter", "name=keylab-"+lab+"-")
	lines = append(lines, networks, volumes)
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// bridgesOf are the machine's links that Docker made for a lab's networks.
func bridgesOf(t *testing.T, lab string) []string {
	var bridges []string
	for _, id := range strings.Fields(docker(t, "network", "ls", "--quiet", "--no-trunc", "--filter", "label=keylab.lab="+lab)) {
		bridges = append(bridges, "br-"+id[:12])
	}
	return bridges
}

// nothingButTPMs checks that of a lab that is down Docker has its TPMs' state and nothing else, and the machine no link and no rule of its networks.
func nothingButTPMs(t *testing.T, lab string, bridges []string) {
	t.Helper()
	for _, list := range [][]string{
		{"ps", "--all", "--quiet", "--filter", "name=keylab-" + lab + "-"},
		{"ps", "--all", "--quiet", "--filter", "label=keylab.lab=" + lab},
		{"network", "ls", "--quiet", "--filter", "label=keylab.lab=" + lab},
	} {
		if s := docker(t, list...); s != "" {
			t.Errorf("docker %s after down: %s", strings.Join(list, " "), s)
		}
	}
	for _, v := range strings.Fields(docker(t, "volume", "ls", "--quiet", "--filter", "label=keylab.lab="+lab)) {
		if !strings.HasPrefix(v, "keylab-"+lab+"-tpm-") {
			t.Errorf("volume %s after down", v)
		}
	}
	rules, err := exec.Command("iptables-save").CombinedOutput()
	if err != nil {
		t.Logf("the machine's rules cannot be looked at: %v: %s", err, rules)
		rules = nil
	}
	for _, bridge := range bridges {
		if _, err := os.Stat(filepath.Join("/sys/class/net", bridge)); err == nil {
			t.Errorf("link %s after down", bridge)
		}
		if strings.Contains(string(rules), bridge) {
			t.Errorf("rules for %s after down:\n%s", bridge, rules)
		}
	}
}

// killWhen starts an up, asks after each step that it says it has done, by the name that it prints, whether to kill it, and tells whether it was killed.
func killWhen(l *testLab, now func(step string) bool) (killed bool) {
	l.t.Helper()
	cmd := l.command("up", "-f", l.spec, "-v")
	out, err := cmd.StderrPipe()
	if err != nil {
		l.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	var said []string
	for lines := bufio.NewScanner(out); !killed && lines.Scan(); {
		said = append(said, lines.Text())
		if f := strings.Fields(lines.Text()); len(f) > 2 && f[0] == "✓" {
			killed = now(f[1])
		}
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		l.t.Log(err)
	}
	_ = cmd.Wait() // killed
	if !killed {
		l.t.Log(strings.Join(said, "\n"))
	}
	return killed
}

// Interrupted, an up takes back what it did.
func TestUpInterrupted(t *testing.T) {
	turn(t)
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
	turn(t)
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
