package kind

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// The docker commands by which kind starts nodes do so one after the other, and not while keylab itself starts a container; other commands do not wait.
func TestKindInTurn(t *testing.T) {
	dir, p := made(t, "nodes: 3\n")
	l, err := newLab(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// A docker command that writes down when it begins and ends, and what it was told.
	fake := t.TempDir()
	said := filepath.Join(fake, "said")
	script := fmt.Sprintf("#!/bin/sh\necho begin \"$@\" >>%[1]s\necho end >>%[1]s\n", said)
	if err := os.WriteFile(filepath.Join(fake, "docker"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", fake+":"+os.Getenv("PATH"))
	restore, err := l.kindInTurn()
	if err != nil {
		t.Fatal(err)
	}

	mine, err := l.takeTurn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			if out, err := exec.CommandContext(t.Context(), "docker", "run", "--name", fmt.Sprintf("node '%d'", i)).CombinedOutput(); err != nil {
				t.Errorf("docker run: %v: %s", err, out)
			}
		})
	}
	if err := exec.CommandContext(t.Context(), "docker", "ps").Run(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(said); err != nil || string(got) != "begin ps\nend\n" {
		t.Errorf("while somebody has the turn: %q, %v; docker ps alone was to run", got, err)
	}
	mine()
	running.Wait()
	got, err := os.ReadFile(said)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(got)), "\n")
	for i, line := range lines {
		if want := [...]string{"begin", "end"}[i%2]; !strings.HasPrefix(line, want) {
			t.Errorf("line %d is %q, want %s: two at once\n%s", i, line, want, got)
		}
	}
	for i := range 8 {
		if want := fmt.Sprintf("begin run --name node '%d'\n", i); !strings.Contains(string(got), want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}

	if err := restore(); err != nil {
		t.Fatal(err)
	}
	if now, err := exec.LookPath("docker"); err != nil || now != filepath.Join(fake, "docker") {
		t.Errorf("the docker command is %s afterwards, %v", now, err)
	}
}
