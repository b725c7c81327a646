package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/report"
)

// program is keylab, built for these tests: statically, as it must be to run in containers.
var program string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "keylab-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "keylab")
	build := exec.Command("go", "build", "-buildvcs=false", "-ldflags", "-s -w", "-o", program, "../cmd/keylab")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 1
	}
	// Which of these tests run at once is for turn to say: none that waits for its turn keeps another one from its own.
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// turns has one place: the labs of the tests that take turns are there one after the other. TestLab, which takes as long as they all, runs beside them.
var turns = make(chan struct{}, 1)

// turn waits until it is this test's, for as long as the test runs.
func turn(t *testing.T) {
	t.Helper()
	t.Parallel()
	turns <- struct{}{}
	t.Cleanup(func() { <-turns })
}

// needDocker skips where Docker cannot run, which on CI is a failure.
func needDocker(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("docker", "version", "--format", "{{.Server.Version}}").CombinedOutput(); err != nil {
		t.Skipf("NOT RUN: labs on Kubernetes need Docker, which does not answer: %v: %s", err, out)
	}
}

// testLab is one lab of these tests, in a folder of its own and on ranges that no default lab has.
type testLab struct {
	t    *testing.T
	name string
	spec string
	env  []string
}

// newLab describes a lab by what its file says beside the networks; it is wiped after the test.
func newLab(t *testing.T, name string, subnet int, text string) *testLab {
	t.Helper()
	needDocker(t)
	dir := t.TempDir()
	l := &testLab{t: t, name: name, spec: filepath.Join(dir, "lab.yaml"), env: append(os.Environ(), "KEYLAB_STATE_DIR="+filepath.Join(dir, "state"))}
	head := fmt.Sprintf(`apiVersion: keylab/v1alpha1
kind: Lab
name: %s
substrate: kind
images: {source: local}
networks:
  services: {cidr: 198.18.%d.0/24}
  cluster: {cidr: 198.18.%d.0/24}
keylime:
  quoteInterval: 500ms
  options: {verifier: {max_retries: "3"}}
`, name, subnet, subnet+1)
	if err := os.WriteFile(l.spec, []byte(head+text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := l.try("wipe", name); err != nil {
			t.Errorf("wipe %s: %v\n%s", name, err, out)
		}
	})
	return l
}

// command is keylab with these arguments.
func (l *testLab) command(args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Env = l.env
	return cmd
}

// try runs keylab and returns all that it printed.
func (l *testLab) try(args ...string) (string, error) {
	out, err := l.command(args...).CombinedOutput()
	return string(out), err
}

// run runs keylab, which must succeed, and returns its standard output.
func (l *testLab) run(args ...string) string {
	l.t.Helper()
	cmd := l.command(args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		l.t.Fatalf("keylab %s: %v\n%s%s", strings.Join(args, " "), err, out, said.String())
	}
	return string(out)
}

func (l *testLab) up() {
	l.t.Helper()
	l.run("up", "-f", l.spec, "-v")
}

// plan is the plan of the lab's specification.
func (l *testLab) plan() plan.Plan {
	l.t.Helper()
	var p plan.Plan
	if err := json.Unmarshal([]byte(l.run("up", "-f", l.spec, "--dry-run", "--output", "json")), &p); err != nil {
		l.t.Fatal(err)
	}
	return p
}

// kubectl runs kubectl against the lab's cluster.
func (l *testLab) kubectl(args ...string) string {
	l.t.Helper()
	return l.run(append([]string{"kubectl", "--lab", l.name, "--"}, args...)...)
}

func (l *testLab) status() control.Status {
	l.t.Helper()
	out, err := l.command("status", l.name, "--output", "json").Output() // fails when the lab is not well
	var s control.Status
	if e := json.Unmarshal(out, &s); e != nil {
		l.t.Fatalf("keylab status: %v, %v\n%s", err, e, out)
	}
	return s
}

func (l *testLab) node(name string) control.Node {
	l.t.Helper()
	for _, n := range l.status().Nodes {
		if n.Name == name {
			return n
		}
	}
	l.t.Fatalf("status shows no node %s", name)
	return control.Node{}
}

// verify is the result of `keylab verify`, whether its checks passed or not.
func (l *testLab) verify() report.Result {
	l.t.Helper()
	out, err := l.command("verify", l.name, "--output", "json").Output()
	var r report.Result
	if e := json.Unmarshal(out, &r); e != nil {
		l.t.Fatalf("keylab verify: %v, %v\n%s", err, e, out)
	}
	return r
}

// passes waits until all checks pass: what was mended may need a moment.
func (l *testLab) passes() report.Result {
	l.t.Helper()
	var r report.Result
	await(l.t, "verify to pass", func() string {
		r = l.verify()
		return complaints(r)
	})
	return r
}

// complaints are the checks that did not pass, but for some, and why: a line for each.
func complaints(r report.Result, except ...string) string {
	var wrong []string
	for _, c := range r.Checks {
		if !c.Passed() && !slices.Contains(except, c.ID) {
			wrong = append(wrong, c.Name()+": "+c.Error)
		}
	}
	return strings.Join(wrong, "\n")
}

// failed are the checks that did not pass, as "id subject".
func failed(r report.Result) []string {
	var list []string
	for _, c := range r.Checks {
		if c.Status != report.Pass {
			list = append(list, c.ID+" "+c.Subject)
		}
	}
	return list
}

// await polls until nothing is missing any more.
func await(t *testing.T, what string, missing func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		last := missing()
		if last == "" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited 3 minutes for %s; last: %s", what, last)
		case <-tick.C:
		}
	}
}

// docker runs the docker command, which must succeed.
func docker(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("docker", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("docker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// left is what Docker has of a lab.
func left(t *testing.T, lab string) string {
	t.Helper()
	var list []string
	for _, filter := range []string{"label=keylab.lab=" + lab, "label=io.x-k8s.kind.cluster=keylab-" + lab} {
		list = append(list, docker(t, "ps", "--all", "--quiet", "--filter", filter))
	}
	list = append(list, docker(t, "network", "ls", "--quiet", "--filter", "label=keylab.lab="+lab), docker(t, "volume", "ls", "--quiet", "--filter", "label=keylab.lab="+lab))
	return strings.TrimSpace(strings.Join(list, "\n"))
}
