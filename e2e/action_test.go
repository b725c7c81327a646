package e2e

import (
	"encoding/xml"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// action is one call of what action.yml calls, as GitHub's runner makes it.
type action struct {
	status  int
	said    string
	summary string
	outputs map[string]string
	path    string // what was added to the path
	dir     string // the workspace
	state   string // where labs are
}

func runAction(t *testing.T, verb string, files map[string]string, inputs ...string) action {
	t.Helper()
	script, err := filepath.Abs("../scripts/action.sh")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	a := action{outputs: map[string]string{}, dir: filepath.Join(dir, "workspace"), state: filepath.Join(dir, "state")}
	stubs := filepath.Join(dir, "stubs")
	for _, d := range []string{a.dir, stubs, filepath.Join(dir, "runner")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range files {
		write(t, filepath.Join(a.dir, name), text, 0o644)
	}
	for name, text := range map[string]string{"sudo": `exec "$@"`, "sysctl": "exit 0", "apparmor_parser": "exit 0"} { // the machine stays as it is
		write(t, filepath.Join(stubs, name), "#!/bin/sh\n"+text+"\n", 0o755)
	}
	c := exec.CommandContext(t.Context(), script, verb)
	c.Dir = a.dir
	c.Env = append(os.Environ(), "KEYLAB_STATE_DIR="+a.state, "PATH="+stubs+":"+filepath.Dir(program)+":"+os.Getenv("PATH"), "RUNNER_TEMP="+filepath.Join(dir, "runner"))
	for _, name := range []string{"GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_PATH"} {
		write(t, filepath.Join(dir, name), "", 0o644)
		c.Env = append(c.Env, name+"="+filepath.Join(dir, name))
	}
	c.Env = append(c.Env, inputs...)
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	a.status, a.said = c.ProcessState.ExitCode(), string(out)
	for line := range strings.Lines(read(t, filepath.Join(dir, "GITHUB_OUTPUT"))) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		a.outputs[name] = value
	}
	a.summary, a.path = read(t, filepath.Join(dir, "GITHUB_STEP_SUMMARY")), strings.TrimSpace(read(t, filepath.Join(dir, "GITHUB_PATH")))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("exit status %d, outputs %v, summary:\n%s\noutput:\n%s", a.status, a.outputs, a.summary, a.said)
		}
	})
	return a
}

func write(t *testing.T, file, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// ends checks exit status and verdict, and that no lab is left.
func (a action) ends(t *testing.T, status int, verdict, summary string) {
	t.Helper()
	if a.status != status || a.outputs["verdict"] != verdict {
		t.Errorf("exit status %d, verdict %q; want %d, %q", a.status, a.outputs["verdict"], status, verdict)
	}
	if !strings.Contains(a.summary, summary) {
		t.Errorf("the summary does not say %q", summary)
	}
	if (status != 0) != strings.Contains(a.said, "::error title=keylab::") {
		t.Error("an error is shown when there is none, or the other way round")
	}
	if left, err := os.ReadDir(filepath.Join(a.state, "labs")); err == nil && len(left) > 0 {
		t.Errorf("a lab is left: %v", left)
	}
}

// cases is how many test cases the JUnit file has that the outputs name.
func (a action) cases(t *testing.T) (all, failed int) {
	t.Helper()
	if filepath.Dir(a.outputs["junit"]) != a.outputs["report"] || !filepath.IsAbs(a.outputs["report"]) {
		t.Fatalf("outputs %v", a.outputs)
	}
	var junit struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
	}
	if err := xml.Unmarshal([]byte(read(t, a.outputs["junit"])), &junit); err != nil {
		t.Fatal(err)
	}
	return junit.Tests, junit.Failures
}

const oneNode = "apiVersion: keylab/v1alpha1\nkind: Lab\nnodes: 1\nkeylime: {quoteInterval: 1s}\n"

func scenarioFile(steps string) string {
	return "apiVersion: keylab/v1alpha1\nkind: Scenario\nname: own\ntitle: My own\nlab: {nodes: 1}\nsteps:\n" + steps
}

func TestActionScenario(t *testing.T) {
	t.Parallel()
	a := runAction(t, "run", map[string]string{"own.yaml": scenarioFile("  - expect: {nodes: [all], attestations: 1}\n")},
		"INPUT_SCENARIO=own.yaml", "INPUT_MODE=pull", "INPUT_ARGS=--seed '7'", "INPUT_REPORT_DIR=out/reports")
	a.ends(t, 0, "passed", "✅ keylab: 1 run passed")
	if all, failed := a.cases(t); all < 3 || failed > 0 {
		t.Errorf("%d cases in JUnit, %d failed", all, failed)
	}
	if want := filepath.Join(a.dir, "out", "reports", "own-pull"); a.outputs["report"] != want || !strings.Contains(read(t, filepath.Join(want, "report.json")), `"seed": 7`) {
		t.Errorf("the reports are in %s, want %s, with seed 7", a.outputs["report"], want)
	}
}

// Of several scenarios, one of which fails.
func TestActionScenariosThatFail(t *testing.T) {
	t.Parallel()
	a := runAction(t, "run", map[string]string{
		"a.yaml": scenarioFile("  - expect: {nodes: [all], attestations: 1}\n"),
		"b.yaml": strings.Replace(scenarioFile("  - {expect: {nodes: [node-1], state: refused}, within: 1s}\n"), "own", "other", 1),
	}, "INPUT_SCENARIO=a.yaml  b.yaml")
	a.ends(t, 1, "failed", "❌ keylab: 1 of 2 runs passed, 1 failed")
	if _, failed := a.cases(t); failed != 1 {
		t.Errorf("%d failures in JUnit", failed)
	}
	if want := filepath.Join(a.dir, "keylab-report"); a.outputs["report"] != want {
		t.Errorf("the reports are in %s, want %s", a.outputs["report"], want)
	}
}

func TestActionSpec(t *testing.T) {
	t.Parallel()
	a := runAction(t, "run", map[string]string{"lab.yaml": oneNode}, "INPUT_SPEC=lab.yaml", "INPUT_MODE=push", "INPUT_ARGS=--nodes 2")
	a.ends(t, 0, "passed", "checks passed")
	if all, failed := a.cases(t); all < 20 || failed > 0 {
		t.Errorf("%d checks in JUnit, %d failed", all, failed)
	}
	if !strings.Contains(a.said, "challenge node-2") {
		t.Error("no node-2 was challenged: the lab is not in the push model, or has not two nodes")
	}
}

// A lab that cannot come up: the summary says why.
func TestActionSpecThatIsNone(t *testing.T) {
	t.Parallel()
	a := runAction(t, "run", map[string]string{"lab.yaml": oneNode + "nods: 3\n"}, "INPUT_SPEC=lab.yaml")
	a.ends(t, 2, "error", `    lab.yaml:5:1: nods: unknown field "nods"`)
	if a.outputs["junit"] != "" {
		t.Errorf("a JUnit file: %s", a.outputs["junit"])
	}
}

func TestActionUsage(t *testing.T) {
	t.Parallel()
	for name, inputs := range map[string][]string{"none": nil, "both": {"INPUT_SPEC=lab.yaml", "INPUT_SCENARIO=all"}} {
		if a := runAction(t, "run", nil, inputs...); a.status != 2 || !strings.Contains(a.said, "give either scenario or spec") {
			t.Errorf("%s: exit status %d: %s", name, a.status, a.said)
		}
	}
}

// The action builds keylab and puts it into the path of the steps after it.
func TestActionSetup(t *testing.T) {
	t.Parallel()
	a := runAction(t, "setup", nil)
	if a.status != 0 || !strings.Contains(a.said, "A lab can run here.") {
		t.Errorf("exit status %d", a.status)
	}
	if out, err := exec.Command(filepath.Join(a.path, "keylab"), "version").CombinedOutput(); err != nil || !strings.Contains(string(out), "keylab") {
		t.Errorf("keylab version: %v: %s", err, out)
	}
}

// Every input that action.yml has reaches the script, which has no others, and every output is one that the script sets.
func TestActionMetadata(t *testing.T) {
	var meta struct {
		Inputs  map[string]any
		Outputs map[string]struct{ Value string }
		Runs    struct {
			Steps []struct {
				ID  string
				Run string
				Env map[string]string
			}
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "../action.yml")), &meta); err != nil {
		t.Fatal(err)
	}
	script := read(t, "../scripts/action.sh")
	passed := map[string]bool{}
	for _, step := range meta.Runs.Steps {
		for name, value := range step.Env {
			input := strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(value, "${{ inputs."), "}}"))
			if _, ok := meta.Inputs[input]; !ok || name != "INPUT_"+strings.ToUpper(strings.ReplaceAll(input, "-", "_")) {
				t.Errorf("%s: %s is from no input of that name", name, value)
			}
			passed[name] = true
		}
	}
	if len(passed) != len(meta.Inputs) {
		t.Errorf("%d of %d inputs reach the script: %v", len(passed), len(meta.Inputs), passed)
	}
	for _, name := range regexp.MustCompile(`INPUT_[A-Z_]*[A-Z]`).FindAllString(script, -1) {
		if !passed[name] {
			t.Errorf("the script reads %s, which action.yml does not give it", name)
		}
	}
	for name, o := range meta.Outputs {
		if !strings.Contains(script, "output "+name+" ") || o.Value != "${{ steps.keylab.outputs."+name+" }}" {
			t.Errorf("output %s: %s", name, o.Value)
		}
	}
}
