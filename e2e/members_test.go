package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keylab.dev/keylab/lab/control"
)

// An agent that does not start is none: the node has the one back that it had, and nothing is left of the other.
func noOtherAgent(l *testLab) {
	t := l.t
	before, objects := agentPods(l), agentObjects(l)
	program := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho there is no agent in here >&2\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := l.try("node", "replace-agent", "node-1", "--lab", l.name, "--kind", "binary", "--path", program)
	if err == nil {
		t.Errorf("it was replaced:\n%s", out)
	}
	for _, want := range []string{"it runs the agent again that it had", "does not stay up (CrashLoopBackOff)", "there is no agent in here"} {
		if !strings.Contains(out, want) {
			t.Errorf("the error does not say %q:\n%s", want, out)
		}
	}
	if now := agentObjects(l); now != objects {
		t.Errorf("the cluster has for agents:\n%s\nbefore:\n%s", now, objects)
	}
	now := agentPods(l)
	others := slices.DeleteFunc(slices.Clone(now), func(pod string) bool { return !slices.Contains(before, pod) })
	if len(now) != len(before) || len(others) != len(before)-1 {
		t.Errorf("the agents' pods are %v, before %v: one of them should be new, and no more", now, before)
	}
	await(t, "the verifier to ask it again", func() string {
		n := l.node("node-1")
		l.askAgain(n)
		if n.State != "attested" {
			return n.State + " " + n.Detail
		}
		return ""
	})
	l.passes()
}

// A node joins the cluster that runs and leaves it again, and nobody else's agent is started again for that. One that is broken off leaves nothing.
func members(l *testLab) {
	t := l.t
	before, objects, parts := agentPods(l), agentObjects(l), partsOf(t, l.name)

	l.pipe("tpm: {ekAlgorithm: ecc-p256}\nagent: {port: 9102}\n", "node", "add", "new", "--lab", l.name, "--file", "-")
	l.passes()
	if n := l.status().Nodes; len(n) != 3 || n[2].Name != "new" || n[2].State != "attested" {
		t.Errorf("after one has joined the nodes are %+v", n)
	}
	if now := agentPods(l); len(now) != 3 || !subset(before, now) {
		t.Errorf("the agents' pods are %v, before one joined %v", now, before)
	}
	if out := l.run("exec", "--lab", l.name, "tenant", "--", "getent", "hosts", "new"); !strings.Contains(out, l.node("new").Address) {
		t.Errorf("its name leads to %s, not to %s", out, l.node("new").Address)
	}

	l.run("node", "remove", "new", "--lab", l.name)
	l.passes()
	if now := agentPods(l); !slices.Equal(now, before) {
		t.Errorf("the agents' pods are %v, before that one joined %v", now, before)
	}
	if now := agentObjects(l); now != objects {
		t.Errorf("the cluster has for agents:\n%s\nbefore that one joined:\n%s", now, objects)
	}
	if out, err := l.try("exec", "--lab", l.name, "tenant", "--", "getent", "hosts", "new"); err == nil {
		t.Errorf("its name leads to %s still", out)
	}
	const itsTPM = "keylab-e2e-lab-tpm-new" // the volume, with which it would come back
	if now, want := partsOf(t, l.name), append(slices.Clone(parts), itsTPM); !slices.Equal(now, sorted(want)) {
		t.Errorf("Docker has %v after it left, want %v", now, want)
	}
	if nodes := l.kubectl("get", "nodes", "-o", "name"); strings.Count(nodes, "node/") != 3 {
		t.Errorf("the cluster has the nodes %s", nodes)
	}
	joinBrokenOff(l)
}

// joinBrokenOff interrupts the joining of a node when its container is there.
func joinBrokenOff(l *testLab) {
	t := l.t
	parts, pods := partsOf(t, l.name), agentPods(l)
	cmd := l.command("node", "add", "late", "--lab", l.name)
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	const worker = "keylab-e2e-lab-worker3"
	await(t, "the container of the node that joins", func() string {
		if all := partsOf(t, l.name); !slices.Contains(all, worker) {
			return "there are " + strings.Join(all, " ")
		}
		return ""
	})
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(said.String(), "add late: interrupt signal received") {
		t.Errorf("interrupted: %v, %s", err, said.String())
	}
	if now := partsOf(t, l.name); !slices.Equal(now, parts) {
		t.Errorf("Docker has %v, before the node that could not join %v", now, parts)
	}
	if now := agentPods(l); !slices.Equal(now, pods) {
		t.Errorf("the agents' pods are %v, before %v", now, pods)
	}
	if nodes := l.status().Nodes; slices.ContainsFunc(nodes, func(n control.Node) bool { return n.Name == "late" }) {
		t.Errorf("the nodes are %+v", nodes)
	}
	l.passes() // also that the registrar knows nobody else
}

// agentPods are the names of the agents' pods, in order.
func agentPods(l *testLab) []string {
	return sorted(strings.Fields(l.kubectl("-n", "keylab-agents", "get", "pods", "-o", "name")))
}

// agentObjects are the names of what the cluster has for agents beside their pods.
func agentObjects(l *testLab) string {
	return l.kubectl("-n", "keylab-agents", "get", "daemonsets,services,ingresses,persistentvolumeclaims", "-o", "name")
}

// partsOf are the names of a lab's containers and named volumes, in order, each once.
func partsOf(t *testing.T, lab string) []string {
	t.Helper()
	all := strings.Fields(docker(t, "ps", "--all", "--format", "{{.Names}}", "--filter", "name=keylab-"+lab+"-"))
	all = append(all, strings.Fields(docker(t, "volume", "ls", "--quiet", "--filter", "name=keylab-"+lab+"-"))...)
	return slices.Compact(sorted(all))
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

// subset tells whether all of a list are in another one.
func subset(list, of []string) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !slices.Contains(of, s) })
}

// pipe is run with something on standard input.
func (l *testLab) pipe(in string, args ...string) {
	l.t.Helper()
	cmd := l.command(args...)
	cmd.Stdin = strings.NewReader(in)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("keylab %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
