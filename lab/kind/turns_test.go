package kind

import (
	"errors"
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

// A node whose turn comes when the `up` that wanted it was killed is not started: it would be there after `down`.
func TestKindInTurnOutlived(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	up := exec.CommandContext(t.Context(), "sleep", "60")
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	started := fmt.Sprintf("#!/bin/sh\necho started >%s\n", file("said"))
	script := fmt.Sprintf(dockerInTurn, shellWord(file("docker")), shellWord(file("lock")), up.Process.Pid)
	if err := errors.Join(os.WriteFile(file("docker"), []byte(started), 0o755), os.WriteFile(file("in turn"), []byte(script), 0o755)); err != nil {
		t.Fatal(err)
	}
	release, err := lockFile(t.Context(), file("lock"))
	if err != nil {
		t.Fatal(err)
	}
	waiting := exec.CommandContext(t.Context(), file("in turn"), "run")
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	if err := up.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = up.Wait() // it was killed
	release()
	if err := waiting.Wait(); err == nil {
		t.Error("the command that has waited says that it has started the node")
	}
	if _, err := os.Stat(file("said")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it was started all the same (%v)", err)
	}
}
