package kind

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/client"
)

// The docker commands by which kind starts nodes make them at once, but start them one after the other, and not while keylab itself starts a container; other
// commands do not wait.
func TestKindInTurn(t *testing.T) {
	t.Setenv(client.EnvOverrideAPIVersion, "1.48")
	l, said := withDocker(t)
	restore, err := l.kindInTurn(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	mine, err := l.takeTurn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	name := func(i int) string { return fmt.Sprintf("node '%d'", i) }
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			if out, err := exec.CommandContext(t.Context(), "docker", "run", "--name", name(i), "--detach", "--tty").CombinedOutput(); err != nil {
				t.Errorf("docker run: %v: %s", err, out)
			}
		})
	}
	if err := exec.CommandContext(t.Context(), "docker", "ps").Run(); err != nil {
		t.Fatal(err)
	}
	tick, deadline := time.NewTicker(10*time.Millisecond), time.After(time.Minute)
	defer tick.Stop()
	for strings.Count(said(), "end create") < 8 {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("while somebody has the turn not all nodes are made:\n%s", said())
		}
	}
	if got := said(); strings.Contains(got, "start") || !strings.Contains(got, "begin ps\n") {
		t.Errorf("while somebody has the turn nothing is to start, and docker ps not to wait:\n%s", got)
	}
	mine()
	running.Wait()
	got := said()
	for i := range 8 {
		if want := fmt.Sprintf("begin create --name %s --tty\n", name(i)); !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
		// What is said of a start stands together, unless another one was at work.
		if want := fmt.Sprintf("begin start id of %[1]s\nend start id of %[1]s\n", name(i)); !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}

	if err := restore(); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "docker", "run").CombinedOutput(); err != nil || !strings.Contains(said(), "begin run\n") {
		t.Errorf("afterwards docker run is %v: %s, and docker was told\n%s", err, out, said())
	}
}

// A Docker that keeps no count is asked for everything at once.
func TestNoTurns(t *testing.T) {
	t.Setenv(client.EnvOverrideAPIVersion, "1.49")
	l, said := withDocker(t)
	restore, err := l.kindInTurn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // nobody gives the turn back
		if _, err := l.takeTurn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "docker", "run", "--detach").CombinedOutput(); err != nil || !strings.Contains(said(), "begin run --detach\n") {
		t.Errorf("docker run is %v: %s, and docker was told\n%s", err, out, said())
	}
	if err := restore(); err != nil {
		t.Error(err)
	}
}

// withDocker is a lab, and a docker command that makes nothing: it writes down when it begins and ends, and what it was told.
func withDocker(t *testing.T) (l *Lab, said func() string) {
	t.Helper()
	dir, p := made(t, "nodes: 3\n")
	l, err := newLab(dir, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	fake := t.TempDir()
	file := filepath.Join(fake, "said")
	script := fmt.Sprintf("#!/bin/sh\necho begin \"$@\" >>%[1]s\n[ \"$1\" = create ] && echo \"id of $3\"\necho end \"$@\" >>%[1]s\n", file)
	if err := os.WriteFile(filepath.Join(fake, "docker"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", fake+":"+os.Getenv("PATH"))
	return l, func() string {
		text, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		return string(text)
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
	started := fmt.Sprintf("#!/bin/sh\n[ $1 = create ] || echo started >%s\n", file("said"))
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

// Whoever takes a lab away waits for the command that makes a node of it, whose keylab may be dead: from the script that stands before it on, and not for one that makes
// another lab's.
func TestBeingMade(t *testing.T) {
	docker := filepath.Join(t.TempDir(), "docker")
	if err := os.WriteFile(docker, []byte("#!/bin/sh\nread line\n"), 0o755); err != nil { // until its input ends
		t.Fatal(err)
	}
	for _, verb := range []string{"run", "create", "start"} {
		making := exec.CommandContext(t.Context(), docker, verb, "--label", labelKindCluster+"=keylab-being-made")
		input, err := making.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := making.Start(); err != nil {
			t.Fatal(err)
		}
		if got := beingMade("being-made"); got != (verb != "start") {
			t.Errorf("while docker %s is at work the lab is being made: %v", verb, got)
		}
		if beingMade("being") {
			t.Errorf("docker %s makes a node of lab being-made, and lab being is said to be made", verb)
		}
		input.Close()
		_ = making.Wait() // read fails at the end of its input
		if beingMade("being-made") {
			t.Errorf("after docker %s ended the lab is being made", verb)
		}
	}
}
