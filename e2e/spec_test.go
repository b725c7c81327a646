package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What the specification says of nodes is so in the cluster: labels, mounts, flows and names that need a node's address, what nodes measure, what is
// delivered to them, and who is told of them.
func TestNodesAsSpecified(t *testing.T) {
	turn(t)
	dir := t.TempDir()
	asset := filepath.Join(dir, "asset")
	if err := os.WriteFile(asset, []byte("seen\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	l := newLab(t, "e2e-spec", 50, fmt.Sprintf(`nodes:
- name: first
  labels: {example.com/rack: r7}
  mounts:
  - {hostPath: %[1]s, containerPath: /mnt/shared}
  - {hostPath: %[2]s, containerPath: /etc/asset, readOnly: true}
- name: second
  payload: {none: true}
ima: {enabled: true}
measuredBoot: {enabled: true}
payload: {inline: %[3]q}
`, dir, asset, secret))
	text, err := os.ReadFile(l.spec)
	if err != nil {
		t.Fatal(err)
	}
	flows := "networks:\n  allow: [{name: to-kubelet, from: tenant, to: second, port: 10250}, {name: to-proxy, from: tenant, to: first, port: 10256}]\n"
	const told = "keylime:\n  revocation: {agent: true, webhook: true, actions: [{name: " + distrust + ", inline: \"#!/bin/sh\\ncat \\\"$1\\\" >> distrusted\\n\"}]}\n"
	text = []byte(strings.NewReplacer("networks:\n", flows, "keylime:\n", told).Replace(string(text)))
	if err := os.WriteFile(l.spec, text, 0o600); err != nil {
		t.Fatal(err)
	}
	l.up()
	t.Run("labels", func(t *testing.T) {
		l := l.on(t)
		for selector, want := range map[string]string{"example.com/rack=r7": "keylab-e2e-spec-worker", "keylab.dev/node=second": "keylab-e2e-spec-worker2"} {
			if got := l.kubectl("get", "nodes", "--selector", selector, "-o", "jsonpath={.items[*].metadata.name}"); got != want {
				t.Errorf("%s has the label %s, want %s", got, selector, want)
			}
		}
	})
	t.Run("mounts", func(t *testing.T) { mountsSeen(l.on(t), dir) })
	t.Run("payload, logs and policies", func(t *testing.T) { delivered(l.on(t)) })
	t.Run("a file that is not allowed", func(t *testing.T) { notAllowed(l.on(t)) })
	t.Run("a tampered boot", func(t *testing.T) { tamperedBoot(l.on(t)) })
	t.Run("router and DNS restarted", func(t *testing.T) { rulesOutliveRestart(l.on(t)) })
}

// mountsSeen checks that the first node sees the file and the folder of this machine, and may write where it is not asked otherwise.
func mountsSeen(l *testLab, dir string) {
	for _, c := range []struct {
		command string
		want    bool
	}{
		{"grep -qx seen /etc/asset", true},
		{"grep -qx seen /mnt/shared/asset", true},
		{"echo no >> /etc/asset", false},
		{"echo yes > /mnt/shared/written", true},
	} {
		if out, err := l.try("exec", "--lab", l.name, "first", "--", "sh", "-c", c.command); (err == nil) != c.want {
			l.t.Errorf("%q on the node: %v, want success %t\n%s", c.command, err, c.want, out)
		}
	}
	for name, want := range map[string]string{"asset": "seen\n", "written": "yes\n"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			l.t.Errorf("on this machine %s is %q, want %q (%v)", name, got, want, err)
		}
	}
	if out, err := l.try("exec", "--lab", l.name, "second", "--", "test", "-e", "/etc/asset"); err == nil {
		l.t.Errorf("the other node sees it too\n%s", out)
	}
}

// Docker chose the nodes' addresses, and router and DNS were told of them while they ran: restarted, they know them still.
func rulesOutliveRestart(l *testLab) {
	// kubelet listens on every node.
	const reach = "import socket, sys; socket.create_connection((sys.argv[1], 10250), 3)"
	answers := func(node string) (string, error) {
		return l.try("exec", "--lab", l.name, "tenant", "--", "/opt/keylime/bin/python3", "-c", reach, node+"."+l.name+".test")
	}
	flows := func() string {
		_, rules, _ := strings.Cut(l.run("net", l.name), "ROUTER RULE")
		rules, _, _ = strings.Cut(rules, "\n\n")
		var lines []string
		for _, line := range strings.Split(rules, "\n")[1:] {
			if f := strings.Fields(line); len(f) > 5 {
				lines = append(lines, strings.Join(f[:5], " ")) // the last is a counter
			}
		}
		return strings.Join(lines, "\n")
	}
	before := flows()
	// Most likely at least one is not the planned address.
	if want := "to-kubelet 198.18.50.13/32 " + l.node("second").Address + "/32 tcp 10250"; !strings.Contains(before, want) {
		l.t.Errorf("the router has no rule %q:\n%s", want, before)
	}
	check := func(when string) {
		await(l.t, when+", the second node's kubelet to answer the tenant", func() string {
			if out, err := answers("second"); err != nil {
				return fmt.Sprintf("%v: %s", err, out)
			}
			return ""
		})
		if _, err := answers("first"); err == nil {
			l.t.Errorf("%s, the first node's kubelet answers too", when)
		}
	}
	check("before the restart")
	docker(l.t, "restart", "--time", "0", "keylab-"+l.name+"-router", "keylab-"+l.name+"-dns", "keylab-"+l.name+"-cluster-dns")
	await(l.t, "the router to run", func() string {
		if _, err := l.try("net", l.name); err != nil {
			return err.Error()
		}
		return ""
	})
	if now := flows(); now != before {
		l.t.Errorf("the router's rules after its restart:\n%s\nbefore:\n%s", now, before)
	}
	check("after the restart")
	l.passes()
}
