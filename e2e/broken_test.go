package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A node that never gets ready: the error says which, and what its kubelet said last. Nothing is left of the lab but its logs.
func TestNodeNeverReady(t *testing.T) {
	t.Parallel() // it waits, most of the time
	kubelet := filepath.Join(t.TempDir(), "kubelet")
	if err := os.WriteFile(kubelet, []byte("#!/bin/sh\necho 'no kubelet today' >&2\nexit 7\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	l := newLab(t, "e2e-unready", 52, fmt.Sprintf(`timeouts: {ready: 150s}
nodes:
- name: sound
- name: broken
  mounts: [{hostPath: %s, containerPath: /usr/bin/kubelet, readOnly: true}]
`, kubelet))
	out, err := l.try("up", "-f", l.spec)
	if err == nil {
		t.Fatalf("the lab is up:\n%s", out)
	}
	for _, want := range []string{
		"not ready within 2m30s (timeouts.ready)", `step "cluster"`, "node broken (container keylab-e2e-unready-worker2): its kubelet does not stay up",
		"status=7/", "no kubelet today", "kind's log is ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the error does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "node sound") {
		t.Error("the error shows a node that is well")
	}
	if s := left(t, l.name); s != "" {
		t.Errorf("left behind: %s", s)
	}
	if out := l.run("list"); strings.Contains(out, l.name) {
		t.Errorf("list shows a lab that never was:\n%s", out)
	}
	_, log, _ := strings.Cut(out, "kind's log is ")
	log, _, _ = strings.Cut(log, "\n")
	if _, err := os.Stat(log); err != nil {
		t.Errorf("the log that the error names: %v", err)
	}
}

// An agent's pod that ends whenever it is started: the error has the last lines of its log. Nothing is left of the lab but its logs.
func TestPodCrashes(t *testing.T) {
	turn(t)
	needDocker(t)
	const image = "keylab.test/e2e-crasher:1"
	tools := strings.Fields(docker(t, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "keylab.test/tools"))
	if len(tools) == 0 {
		t.Fatal("there is no tools' image: make docker")
	}
	container := docker(t, "create", tools[0])
	t.Cleanup(func() { docker(t, "rm", container) })
	docker(t, "commit", "--change", `ENTRYPOINT ["sh", "-c", "exec >&2; echo first words; echo there is no TPM today; exit 3"]`, container, image)
	t.Cleanup(func() { docker(t, "image", "rm", image) })
	l := newLab(t, "e2e-crash", 54, "nodes: 1\nagent: {kind: image, image: "+image+"}\n")
	out, err := l.try("up", "-f", l.spec)
	if err == nil {
		t.Fatalf("the lab is up:\n%s", out)
	}
	for _, want := range []string{`step "agent/node-1"`, "does not stay up (CrashLoopBackOff)", "the end of its log:\n  first words\n  there is no TPM today\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("the error does not say %q:\n%s", want, out)
		}
	}
	if s := left(t, l.name); s != "" {
		t.Errorf("left behind: %s", s)
	}
}
