package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"keylab.dev/keylab/lab/state"
	"keylab.dev/keylab/report"
	"keylab.dev/keylab/report/files"
)

// upSteps are the lines of progress of `up --nodes 1`. Steps run side by side, so that their order differs from run to
// run; each is waited for in a run of its own.
var upSteps = []string{
	"keylime-install", "keylime-config", "network", "ingress", "dns", "ek-ca", "tenant", "tpm", "registrar", "agent", "verifier", "enrol",
}

// TestUpKilled kills `keylab up` itself, so that it cannot clean up, after each of its steps: the lab takes itself down,
// and the next `up` of the same name, here the one of the next step, finds nothing in its way.
func TestUpKilled(t *testing.T) {
	t.Setenv(state.EnvBase, t.TempDir())
	const name = "upkilled"
	for _, step := range upSteps {
		t.Run(step, func(t *testing.T) {
			u := startUp(t, name)
			u.await(t, step+" ")
			if err := u.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			u.end()
			nothingRuns(t, name)
			if status, out := keylab(t, "down", name); status != exitOK || !strings.Contains(out, "is not running: nothing to do.") {
				t.Errorf("down: exit status %d: %s", status, out)
			}
		})
	}
	t.Run("at last", func(t *testing.T) {
		u := startUp(t, name)
		if err := u.end(); err != nil {
			t.Fatalf("up after %d killed ones: %v\n%s", len(upSteps), err, u.seen.String())
		}
		if status, out := keylab(t, "status", name); status != exitOK {
			t.Errorf("status: exit status %d: %s", status, out)
		}
		if status, out := keylab(t, "wipe", name); status != exitOK {
			t.Errorf("wipe: exit status %d: %s", status, out)
		}
		nothingRuns(t, name)
	})
}

// TestUpInterrupted presses ctrl-C, and sends the signal that init systems and CI runners send.
func TestUpInterrupted(t *testing.T) {
	t.Setenv(state.EnvBase, t.TempDir())
	for signal, step := range map[os.Signal]string{os.Interrupt: "registrar", syscall.SIGTERM: "network"} {
		t.Run(signal.String(), func(t *testing.T) {
			u := startUp(t, "interrupted")
			u.await(t, step+" ")
			if err := u.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			err := u.end()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != exitFailed {
				t.Errorf("up ended with %v, want exit status %d", err, exitFailed)
			}
			if !strings.Contains(u.seen.String(), "keylab: the start of lab interrupted was interrupted and undone") {
				t.Errorf("up does not say what became of the lab:\n%s", u.seen.String())
			}
			nothingRuns(t, "interrupted")
		})
	}
}

// TestRunInterrupted presses ctrl-C in the middle of a scenario: the report says what had happened until then, and nothing is left of the lab.
func TestRunInterrupted(t *testing.T) {
	t.Setenv(state.EnvBase, t.TempDir())
	dir := t.TempDir()
	file := filepath.Join(dir, "stopped.yaml")
	if err := os.WriteFile(file, []byte(`apiVersion: keylab/v1alpha1
kind: Scenario
name: stopped
title: An experiment that somebody stops
topic: faults
about: {question: "Does it end?", happens: It is stopped., why: Somebody is in a hurry., fleet: Nothing is left.}
modes: [pull]
lab: {nodes: 1}
steps:
  - {name: the node is cut off, fault: partition, nodes: [any]}
  - {name: nobody waits for this, hold: 1h}
  - {name: never come to, expect: {nodes: [any], state: attested}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	reports := filepath.Join(dir, "reports")
	u := start(t, "run", file, "--report", reports)
	u.await(t, "the node is cut off")
	_, labs := keylab(t, "list")
	name := regexp.MustCompile(`stopped-\w+`).FindString(labs)
	if name == "" {
		t.Fatalf("list does not show the lab of the run: %s", labs)
	}
	if err := u.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err := u.end()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitInterrupted {
		t.Errorf("run ended with %v, want exit status %d\n%s", err, exitInterrupted, u.seen.String())
	}
	if said := u.seen.String(); !strings.Contains(said, "interrupted in step 2, nobody waits for this") {
		t.Errorf("run does not say where it was interrupted:\n%s", said)
	}

	data, err := os.ReadFile(filepath.Join(reports, "stopped-pull", files.JSON))
	if err != nil {
		t.Fatal(err)
	}
	var run report.Run
	if err := json.Unmarshal(data, &run); err != nil {
		t.Fatal(err)
	}
	var statuses []report.StepStatus
	for _, s := range run.Steps {
		statuses = append(statuses, s.Status)
	}
	// The lab, the fault, the wait, what was never come to, and the fault that is mended at the end.
	if want := []report.StepStatus{report.StepPassed, report.StepPassed, report.StepFailed, report.StepSkipped, report.StepPassed}; run.Verdict != report.Interrupted || !slices.Equal(statuses, want) {
		t.Errorf("the report says %s, %v; want %s, %v", run.Verdict, statuses, report.Interrupted, want)
	}
	for _, name := range []string{files.HTML, files.History, files.Markdown, files.JUnit} {
		if _, err := os.Stat(filepath.Join(reports, "stopped-pull", name)); err != nil {
			t.Error(err)
		}
	}
	if _, out := keylab(t, "list"); !strings.Contains(out, "There are no labs") {
		t.Errorf("the lab is still there: %s", out)
	}
	nothingRuns(t, name)
}

// `down` does not wait for a lab that is still starting: it ends there, and `up` says why.
func TestUpTakenDown(t *testing.T) {
	t.Setenv(state.EnvBase, t.TempDir())
	u := startUp(t, "early")
	u.await(t, "network ")
	keylab(t, "down", "early")
	err := u.end()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitFailed {
		t.Errorf("up ended with %v, want exit status %d", err, exitFailed)
	}
	if !strings.Contains(u.seen.String(), "keylab: the lab was taken down while it was starting") {
		t.Errorf("up does not say what became of the lab:\n%s", u.seen.String())
	}
	nothingRuns(t, "early")
}

// A first `up` that fails leaves its logs, and nothing that stands in the way of the next, whatever that asks for.
func TestFirstUpFails(t *testing.T) {
	t.Setenv(state.EnvBase, t.TempDir())
	file := filepath.Join(t.TempDir(), "lab.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte("apiVersion: keylab/v1alpha1\nkind: Lab\nname: first\nnodes: 1\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { keylab(t, "wipe", "first") })

	write("keylime: {options: {verifier: {no_such_option: x}}}\n")
	if status, out := keylab(t, "up", file); status != exitFailed || !strings.Contains(out, `no option "no_such_option"`) {
		t.Fatalf("up with an option that Keylime does not have: %d\n%s", status, out)
	}
	dir, err := state.For("first")
	if err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir.Path)
	if err != nil || len(left) != 1 || filepath.Join(dir.Path, left[0].Name()) != dir.Logs() {
		t.Errorf("a first up that failed leaves %v (%v), want its logs alone", left, err)
	}
	if _, out := keylab(t, "list"); !strings.Contains(out, "There are no labs") {
		t.Errorf("list shows a lab that never was: %s", out)
	}
	if _, out := keylab(t, "logs", "-l", "first", "supervisor"); !strings.Contains(out, "no_such_option") {
		t.Errorf("the log does not say what failed: %s", out)
	}

	write("tpm: {ekAlgorithm: ecc-p256}\n")
	if status, out := keylab(t, "up", file); status != exitOK {
		t.Errorf("up with a corrected file: %d\n%s", status, out)
	}
}

// running is a verb of keylab in a process of its own.
type running struct {
	cmd  *exec.Cmd
	err  *bufio.Reader
	seen bytes.Buffer // what it printed so far
}

// startUp starts a lab of one node.
func startUp(t *testing.T, name string) *running {
	t.Helper()
	u := start(t, "up", "--lab", name, "--nodes", "1")
	t.Cleanup(func() { keylab(t, "wipe", name) })
	return u
}

// start starts a verb, which is killed if the test ends before it.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	u := &running{cmd: program(args...)}
	pipe, err := u.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	u.err = bufio.NewReader(io.TeeReader(pipe, &u.seen))
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if u.cmd.ProcessState == nil {
			_ = u.cmd.Process.Kill()
			_ = u.end()
		}
	})
	return u
}

// await reads until the line of a step that is done.
func (u *running) await(t *testing.T, step string) {
	t.Helper()
	for {
		line, err := u.err.ReadString('\n')
		if strings.HasPrefix(strings.TrimSpace(line), "✓ "+step) {
			return
		}
		if err != nil {
			t.Fatalf("keylab ended before its step %q was done:\n%s", step, u.seen.String())
		}
	}
}

// end waits until keylab has ended.
func (u *running) end() error {
	_, _ = io.Copy(io.Discard, u.err)
	return u.cmd.Wait()
}

// program is the keylab command in a process of its own: this test program under another name.
func program(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{"keylab"}, args...)
	return cmd
}

// keylab runs a verb and returns its exit status and all that it printed.
func keylab(t *testing.T, args ...string) (status int, output string) {
	t.Helper()
	cmd := program(args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("keylab %s: %v", strings.Join(args, " "), err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

// nothingRuns waits until no process and no socket of a lab is left. The first process of a lab's sandbox ends after all
// others (pid_namespaces(7)), and it and the supervisor carry the lab's name.
func nothingRuns(t *testing.T, name string) {
	t.Helper()
	deadline := time.After(time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		left := remains(t, name)
		if left == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("a minute later there is still %s", left)
		}
	}
}

func remains(t *testing.T, name string) string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		// A process that has ended meanwhile, or is a zombie, has none.
		if args, err := os.ReadFile(file); err == nil && bytes.HasPrefix(args, []byte("keylab["+name+"]\x00")) {
			return fmt.Sprintf("%s: %s", filepath.Dir(file), bytes.ReplaceAll(args, []byte{0}, []byte(" ")))
		}
	}
	dir, err := state.For(name)
	if err != nil {
		t.Fatal(err)
	}
	sockets, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(sockets), "/"+dir.Key()) {
		return "the control socket"
	}
	return ""
}
