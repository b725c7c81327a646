package kind

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"keylab.dev/keylab/lab/internal/fakedocker"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
)

// check is what CheckDocker says of the Docker that the environment names.
func check(t *testing.T) (string, error) {
	t.Helper()
	c, err := NewClient()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return CheckDocker(t.Context(), c)
}

// wantProblem checks that an error is one clear Problem: what, where and what to do.
func wantProblem(t *testing.T, err error, what, where, fix string) {
	t.Helper()
	var p *Problem
	if !errors.As(err, &p) {
		t.Fatalf("no problem that is known: %v", err)
	}
	if !strings.Contains(p.What, what) || !strings.Contains(p.What, where) || !strings.Contains(p.Fix, fix) {
		t.Errorf("the problem is %q\nand the fix %q\nwant %q, at %q, and %q", p.What, p.Fix, what, where, fix)
	}
	if strings.Contains(p.What, "\n") || strings.Contains(p.Fix, "\n") {
		t.Errorf("the problem is not one line each: %q, %q", p.What, p.Fix)
	}
}

func TestCheckDockerFine(t *testing.T) {
	fakedocker.New().Serve(t)
	if v, err := check(t); err != nil || v != "20.10.24" {
		t.Errorf("version %q, %v", v, err)
	}
}

func TestCheckDockerProblems(t *testing.T) {
	for _, c := range []struct {
		name      string
		change    func(*fakedocker.Daemon)
		what, fix string
	}{
		{"old", func(d *fakedocker.Daemon) { d.API, d.Info.ServerVersion = "1.39", "18.09.1" },
			"Docker 18.09.1 is too old: its API is 1.39", "install Docker 20.10 or newer"},
		{"windows", func(d *fakedocker.Daemon) { d.Info.OSType = "windows" }, "windows containers", "Linux containers"},
		{"rootless", func(d *fakedocker.Daemon) {
			d.Info.SecurityOptions = []string{"name=seccomp,profile=default", "name=rootless"}
		}, "rootless", "substrate netns"},
		{"memory", func(d *fakedocker.Daemon) { d.Info.MemoryLimit = false }, "lacks control groups that Kubernetes' nodes need: memory", "cgroup"},
		{"all", func(d *fakedocker.Daemon) {
			d.Info.MemoryLimit, d.Info.CPUShares, d.Info.CPUSet, d.Info.PidsLimit = false, false, false, false
		}, "memory, cpu, cpuset, pids", "--privileged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := fakedocker.New()
			c.change(d)
			socket := d.Serve(t)
			_, err := check(t)
			wantProblem(t, err, c.what, socket, c.fix)
			if err := preflight(t); !errors.As(err, new(*Problem)) {
				t.Errorf("up is not refused before it begins: %v", err)
			}
		})
	}
}

// preflight is what refuses a lab on the Docker that the environment names.
func preflight(t *testing.T) error {
	t.Helper()
	dir, p := planned(t, "")
	return Preflight(t.Context(), dir, p, true)
}

// planned is a lab with a folder of its own, of which there is nothing yet; text is the end of its specification.
// fakeHead is the head of the specification of the lab of these tests.
const fakeHead = "apiVersion: keylab/v1alpha1\nkind: Lab\nname: fake\nsubstrate: kind\n"

func planned(t *testing.T, text string) (state.Dir, plan.Plan) {
	t.Helper()
	s, err := spec.Decode("test.yaml", []byte(fakeHead+text))
	if err != nil {
		t.Fatal(err)
	}
	s.SetDefaults()
	p, err := plan.Make(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(state.EnvBase, t.TempDir())
	dir, err := state.For("fake")
	if err != nil {
		t.Fatal(err)
	}
	return dir, p
}

func TestCheckDockerNoCommand(t *testing.T) {
	fakedocker.New().Serve(t)
	t.Setenv("PATH", t.TempDir())
	_, err := check(t)
	wantProblem(t, err, "the docker command is missing", "", "apt-get install docker.io")
}

func TestCheckDockerNoDaemon(t *testing.T) {
	fakedocker.Command(t, "exit 1")
	t.Setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
	_, err := check(t)
	wantProblem(t, err, "no Docker daemon answers", "unix:///nowhere/docker.sock", "scripts/dockerd.sh start")
}

// A user with a context of Docker's, such as that of a rootless one, would have half a lab on each daemon.
func TestCheckDockerOtherContext(t *testing.T) {
	fakedocker.New().Serve(t)
	os.Unsetenv("DOCKER_HOST") // Serve has it set back
	fakedocker.Command(t, `echo "rootless unix:///run/user/1000/docker.sock"`)
	_, err := check(t)
	wantProblem(t, err, "the docker command uses unix:///run/user/1000/docker.sock, by its context rootless", "docker.sock",
		"export DOCKER_HOST=unix:///run/user/1000/docker.sock")
}

// Root may use every socket, so another user has to try: nobody, if need be.
func TestCheckDockerNoPermission(t *testing.T) {
	const asHelper = "KEYLAB_TEST_CHECK_DOCKER"
	if os.Getenv(asHelper) != "" {
		_, err := check(t)
		wantProblem(t, err, "no permission to use Docker", os.Getenv("DOCKER_HOST"), "sudo usermod -aG docker $USER")
		return
	}
	socket := fakedocker.New().Serve(t)
	if err := os.Chmod(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(socket, 0o000); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestCheckDockerNoPermission$", "-test.v")
	cmd.Dir = "/"
	// The docker command that Serve made is in a folder of this user's alone.
	commands := t.TempDir()
	cmd.Env = slices.Concat(os.Environ(), []string{asHelper + "=1", "PATH=" + commands})
	if os.Geteuid() == 0 {
		public, err := os.MkdirTemp("/tmp", "keylab-commands-") // the tests' own folder may be closed to others
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(public) })
		if err := os.Chmod(public, 0o755); err != nil {
			t.Fatal(err)
		}
		commands = public
		cmd.Env = append(cmd.Env, "PATH="+commands)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if err := os.WriteFile(filepath.Join(commands, "docker"), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("as another user: %v\n%s", err, out)
	}
}

// The words are Docker's own, of machines that lack something.
const (
	noCaps = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: " +
		"unable to apply caps: operation not permitted: unknown"
	noCgroups = "OCI runtime create failed: container_linux.go:380: starting container process caused: " +
		"process_linux.go:385: applying cgroup configuration for process caused: " +
		"cgroups: cgroup mountpoint does not exist: unknown"
)

func TestTryPrivileged(t *testing.T) {
	for _, c := range []struct{ name, refuses, what, fix string }{
		{"fine", "", "", ""},
		{"capabilities", noCaps, "lacks capabilities", "scripts/dockerd.sh start"},
		{"cgroups", noCgroups, "has not the control groups", "--privileged"},
		{"other right", "mount /proc: operation not permitted", "may not do what a container needs: ", "--privileged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := fakedocker.New()
			d.Refuses = c.refuses
			d.Serve(t)
			client, err := NewClient()
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			err = TryPrivileged(t.Context(), client)
			if c.what == "" && err != nil {
				t.Error(err)
			}
			if c.what != "" {
				wantProblem(t, err, c.what, c.refuses, c.fix)
			}
			if !slices.Equal(d.Removed, []string{"c1"}) {
				t.Errorf("containers removed: %q, want the one that was made", d.Removed)
			}
		})
	}
}

// Without an image there is nothing to try with.
func TestTryPrivilegedNoImage(t *testing.T) {
	d := fakedocker.New()
	d.Image, d.Refuses = "", noCaps
	d.Serve(t)
	client, err := NewClient()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := TryPrivileged(t.Context(), client); err != nil || len(d.Removed) > 0 {
		t.Errorf("%v, removed %q", err, d.Removed)
	}
}

// What Docker says while a lab is made is kept, with what is behind it.
func TestExplained(t *testing.T) {
	cause := errors.New(noCaps)
	err := explained(cause)
	if !errors.Is(err, cause) {
		t.Errorf("the cause is gone: %v", err)
	}
	wantProblem(t, err, "lacks capabilities", "", "--privileged")
	other := errors.New("port is already allocated")
	if got := explained(other); got != other {
		t.Errorf("%v became %v", other, got)
	}
}
