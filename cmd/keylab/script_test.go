package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/state"
	"keylab.dev/keylab/tpmsim"
)

var update = flag.Bool("update", false, "write what the commands print now into the scripts")

func TestMain(m *testing.M) {
	// What this machine's Docker has must not show: labs of the substrate kind have tests of their own.
	os.Setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
	lab.Init() // a lab's supervisor is this test program, started again
	testscript.Main(m, map[string]func(){"keylab": command})
}

// command is what main does.
func command() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, streams{os.Stdin, os.Stdout, os.Stderr}, os.Args[1:])
	stop()
	os.Exit(status)
}

// TestScript runs what needs no lab.
func TestScript(t *testing.T) { runScripts(t, "script") }

// TestLabScript runs whole labs, one after the other.
func TestLabScript(t *testing.T) { runScripts(t, "lab") }

func runScripts(t *testing.T, dir string) {
	cache, err := state.CacheBase()
	if err != nil {
		t.Fatal(err)
	}
	params := testscript.Params{
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv(state.EnvBase, filepath.Join(e.WorkDir, "state"))
			e.Setenv(state.EnvCache, cache)
			e.Setenv(envLab, "")
			program, err := exec.LookPath("keylab")
			if err != nil {
				return err
			}
			e.Setenv("PROGRAM", program)
			e.Defer(func() { wipeAll(t, e) })
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond != "simulator" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			return tpmsim.Simulator().Available() == nil, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"json":  jsonHas,
		},
	}
	params.Dir = filepath.Join("testdata", dir)
	testscript.Run(t, params)
}

// wipeAll ends the labs that a script, perhaps one that failed, left behind.
func wipeAll(t *testing.T, e *testscript.Env) {
	dirs, err := os.ReadDir(filepath.Join(e.WorkDir, "state", "labs"))
	if errors.Is(err, os.ErrNotExist) || len(dirs) == 0 {
		return
	}
	cmd := exec.Command("keylab", "wipe", "--all")
	cmd.Env = e.Vars
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("keylab wipe --all: %v\n%s", err, out)
	}
}

// exits runs a command and wants one certain exit status of it: exits STATUS COMMAND [ARGUMENT…]
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS COMMAND [ARGUMENT…]")
	}
	want, err := strconv.Atoi(args[0])
	if err != nil {
		ts.Fatalf("exits: %v", err)
	}
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("exits: %v", err)
	}
	if got != want {
		ts.Fatalf("exit status %d, not %d", got, want)
	}
}
