package scenario

import (
	"context"
	"errors"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/report"
)

// fakeLab is a lab whose one node is attested, unless the fault is in it.
type fakeLab struct {
	Lab    // what no test needs
	mu     sync.Mutex
	broken bool
	dud    bool // the fault does nothing
	count  int
	done   []string
	refuse string
	up     chan struct{} // closed at the first status
	once   sync.Once
}

func (f *fakeLab) Status(context.Context) (control.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.once.Do(func() {
		if f.up != nil {
			close(f.up)
		}
	})
	n := control.Node{Name: "node-1", UUID: "u1", State: "attested", AttestationCount: f.count}
	if f.broken {
		n.State, n.Detail = "failed", "event x"
	} else {
		f.count++
		n.AttestationCount = f.count
	}
	return control.Status{Substrate: "netns", Nodes: []control.Node{n}}, nil
}

func (f *fakeLab) Verify(context.Context) (report.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := report.Result{Checks: []report.Check{{ID: "uuid", Status: report.Pass}, {ID: "attested", Subject: "node-1", Status: report.Pass}}}
	if f.broken {
		r.Checks[1].Status, r.Checks[1].Error = report.Fail, "given up"
	}
	return r, nil
}

func (f *fakeLab) Notices(context.Context) ([]control.Notice, error) { return nil, nil }

func (f *fakeLab) Act(_ context.Context, a control.Action) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done = append(f.done, a.Kind+" "+a.Node)
	if f.refuse != "" {
		return "", errors.New(f.refuse)
	}
	return "done", nil
}

func (f *fakeLab) Measure(context.Context, control.Measurement) (control.Measured, error) {
	return control.Measured{}, errors.New("nothing is measured")
}

func (f *fakeLab) EK(context.Context, control.EKOrder) (control.EKDone, error) {
	return control.EKDone{Text: "done", Refused: f.refuse}, nil
}

func (f *fakeLab) Fault(_ context.Context, c control.Fault) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = !c.Clear && !f.dud
	return "broken", nil
}

func (f *fakeLab) Mark(context.Context) (control.Mark, error) { return control.Mark{}, nil }

func (f *fakeLab) Fired(context.Context, control.Fault, control.Mark) (control.Proof, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return control.Proof{Fired: f.broken, Evidence: "looked"}, nil
}

func (f *fakeLab) Log(context.Context, string) ([]byte, error) {
	return []byte("Sent 200\nSent 429\nSent 429 again\n"), nil
}

func (f *fakeLab) HTTP(_ context.Context, r control.HTTPRequest) (control.HTTPAnswer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case r.To == "node-1":
		return control.HTTPAnswer{}, errors.New("nobody connects to an agent")
	case f.broken:
		return control.HTTPAnswer{Error: "connection refused"}, nil
	}
	return control.HTTPAnswer{Status: 200, Body: strings.Join([]string{r.From, r.Method, r.Path, r.As}, " ")}, nil
}

func (f *fakeLab) Command(ctx context.Context, _ string, argv ...string) (*exec.Cmd, error) {
	return exec.CommandContext(ctx, argv[0], argv[1:]...), nil
}

func (f *fakeLab) TPMCommand(ctx context.Context, _ string, argv ...string) (*exec.Cmd, error) {
	return exec.CommandContext(ctx, argv[0], argv[1:]...), nil
}

func (f *fakeLab) TenantCommand(ctx context.Context, args ...string) (*exec.Cmd, error) {
	return exec.CommandContext(ctx, "echo", args...), nil
}

// play1 carries steps out on a lab of one node.
func play1(t *testing.T, ctx context.Context, f *fakeLab, steps string) (*runner, report.Verdict, string) {
	t.Helper()
	sc, err := Decode("f.yaml", []byte("apiVersion: keylab/v1alpha1\nkind: Scenario\nname: x\ntitle: X\nlab: {nodes: 1}\nsteps:\n"+steps))
	if err != nil {
		t.Fatal(err)
	}
	r := &runner{scenario: sc, lab: f, cast: newCast(sc, 1), history: newHistory()}
	verdict, why := r.steps(ctx)
	return r, verdict, why
}

func statuses(r *runner) string {
	var out []string
	for _, s := range r.finished {
		out = append(out, string(s.Status))
	}
	return strings.Join(out, " ")
}

const breakAndMend = `  - expect: {nodes: [all], attestations: 2}
  - {fault: dead-agent, nodes: [node-1], within: 1s}
  - expect: {nodes: [node-1], state: failed, detail: event}
  - expect: {verify: failed, fails: [attested *]}
  - {mend: dead-agent, nodes: [node-1]}
  - expect: {nodes: [node-1], state: attested}
  - expect: {verify: passed}
`

func TestSteps(t *testing.T) {
	r, verdict, why := play1(t, t.Context(), &fakeLab{}, breakAndMend)
	if verdict != report.Passed || statuses(r) != "passed passed passed passed passed passed passed" {
		t.Errorf("%s: %s: %s", verdict, why, statuses(r))
	}
	if e := r.finished[1].Evidence; e != "looked" {
		t.Errorf("the fault's evidence is %q", e)
	}
}

// A fault that does nothing fails the run, and the rest is left out.
func TestFaultThatDoesNotFire(t *testing.T) {
	r, verdict, why := play1(t, t.Context(), &fakeLab{dud: true}, breakAndMend)
	if verdict != report.Failed || !strings.Contains(why, "the fault was not seen to fire: not within 1s; looked") {
		t.Errorf("%s: %s", verdict, why)
	}
	if got := statuses(r); got != "passed failed skipped skipped skipped skipped skipped" {
		t.Error(got)
	}
}

func TestFailures(t *testing.T) {
	for name, c := range map[string]struct {
		steps   string
		lab     *fakeLab
		verdict report.Verdict
		why     string
	}{
		"expectation not met":     {"  - {expect: {nodes: [node-1], state: off}, within: 300ms}\n", &fakeLab{}, report.Failed, "waiting for node-1 off: not within 300ms; node-1 was attested"},
		"never seen":              {"  - {do: reboot, nodes: [node-1]}\n  - expect: {nodes: [node-1], attestations: 1}\n  - {never: {nodes: [node-1], state: attested}}\n", &fakeLab{}, report.Failed, "node-1 had"},
		"action that fails":       {"  - {do: reboot, nodes: [node-1]}\n  - expect: {verify: passed}\n", &fakeLab{refuse: "no"}, report.Broken, "no"},
		"not refused":             {"  - {do: enrol, nodes: [node-1], refused: no}\n", &fakeLab{}, report.Failed, "was not refused"},
		"refused in other words":  {"  - {do: enrol, nodes: [node-1], refused: CA}\n", &fakeLab{refuse: "busy"}, report.Failed, `not with "CA": busy`},
		"refused":                 {"  - {do: enrol, nodes: [node-1], refused: 'No .* CA'}\n", &fakeLab{refuse: "No Root CA"}, report.Passed, ""},
		"checks that do not fail": {"  - {expect: {verify: failed, fails: [uuid, attested *]}, within: 300ms}\n", &fakeLab{}, report.Failed, "should have failed: uuid, attested *"},
		"checks that fail too":    {"  - {fault: dead-agent, nodes: [node-1]}\n  - {expect: {verify: passed}, within: 300ms}\n", &fakeLab{}, report.Failed, "these failed: attested node-1 (given up)"},
		"program's status":        {"  - {expect: {run: [sh, -c, exit 3], on: tenant, exit: 3}}\n", &fakeLab{}, report.Passed, ""},
		"program's other status":  {"  - {expect: {run: [sh, -c, exit 3], on: tenant}, within: 300ms}\n", &fakeLab{}, report.Failed, "it ended with 3"},
		"program's output":        {"  - {expect: {run: [echo, '${node-1.uuid}'], on: tenant, output: '^u1\\s*$'}}\n", &fakeLab{}, report.Passed, ""},
		"log":                     {"  - {expect: {log: verifier, output: '4[0-9]9', more: 2}}\n", &fakeLab{}, report.Passed, ""},
		"log without that":        {"  - {expect: {log: verifier, output: nothing}, within: 300ms}\n", &fakeLab{}, report.Failed, "no line has that"},
		"log with too few":        {"  - {expect: {log: verifier, output: '429', more: 3}, within: 300ms}\n", &fakeLab{}, report.Failed, "2 lines; the last one: Sent 429 again"},
		"HTTP status":             {"  - {expect: {http: {to: verifier, path: '/a/${any.uuid}', status: 200}, output: '^tenant GET /a/u1 client$'}}\n", &fakeLab{}, report.Passed, ""},
		"HTTP status, all given":  {"  - {expect: {http: {from: verifier, to: registrar, as: plain, method: PUT, path: /a, status: 200}, output: '^verifier PUT /a plain$'}}\n", &fakeLab{}, report.Passed, ""},
		"another HTTP status":     {"  - {expect: {http: {to: verifier, path: /a, status: 403}}, within: 300ms}\n", &fakeLab{}, report.Failed, "verifier answered 200"},
		"another HTTP body":       {"  - {expect: {http: {to: verifier, path: /a, status: 200}, output: nothing}, within: 300ms}\n", &fakeLab{}, report.Failed, "tenant GET /a client"},
		"no HTTP answer":          {"  - {expect: {http: {to: verifier, path: /a, error: refused}}}\n", &fakeLab{broken: true}, report.Passed, ""},
		"HTTP answer, not wanted": {"  - {expect: {http: {to: verifier, path: /a, error: refused}}, within: 300ms}\n", &fakeLab{}, report.Failed, "verifier answered 200"},
		"HTTP answer, missing":    {"  - {expect: {http: {to: verifier, path: /a, status: 200}}, within: 300ms}\n", &fakeLab{broken: true}, report.Failed, "no answer: connection refused"},
		"HTTP, impossible":        {"  - {expect: {http: {to: node-1, path: /a, status: 200}}, within: 300ms}\n", &fakeLab{}, report.Failed, "nobody connects to an agent"},
		"tenant":                  {"  - {do: tenant, run: [-c, delete, '${any.uuid}']}\n  - expect: {verify: passed}\n", &fakeLab{}, report.Passed, ""},
		"an EK order refused":     {"  - {do: ek-issue, nodes: [node-1], with: {restart: 'true'}, refused: '403'}\n", &fakeLab{refuse: "403 Forbidden"}, report.Passed, ""},
		"no such program":         {"  - {do: exec, nodes: [node-1], run: [/no/such]}\n  - expect: {verify: passed}\n", &fakeLab{}, report.Broken, "no such file"},
	} {
		_, verdict, why := play1(t, t.Context(), c.lab, c.steps)
		if verdict != c.verdict || !strings.Contains(why, c.why) {
			t.Errorf("%s: %s: %q; want %s: %q", name, verdict, why, c.verdict, c.why)
		}
	}
}

// An interrupted run says so, and what it had come to is kept.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := &fakeLab{up: make(chan struct{})}
	go func() {
		<-f.up
		cancel()
	}()
	r, verdict, _ := play1(t, ctx, f, "  - expect: {nodes: [node-1], state: off}\n  - expect: {verify: passed}\n")
	if verdict != report.Interrupted || statuses(r) != "failed skipped" {
		t.Errorf("%s: %s", verdict, statuses(r))
	}
}

// any is one node, the same in the whole run and for the same seed; others are those that no step did anything to.
func TestCast(t *testing.T) {
	sc, err := Decode("f.yaml", []byte("apiVersion: keylab/v1alpha1\nkind: Scenario\nname: x\ntitle: X\nlab: {nodes: 8}\nsteps:\n  - {do: reboot, nodes: [any]}\n  - expect: {nodes: [others], attestations: 1}\n  - expect: {nodes: [any], attestations: 1}\n"))
	if err != nil {
		t.Fatal(err)
	}
	chosen := map[string]bool{}
	for seed := range uint64(40) {
		steps, again := sc.Cast(seed), sc.Cast(seed)
		one := steps[0].Nodes[0]
		chosen[one] = true
		others := steps[1].Expect.Nodes
		if len(others) != 7 || slices.Contains(others, one) || steps[2].Expect.Nodes[0] != one || again[0].Nodes[0] != one {
			t.Fatalf("seed %d: %s, %v, %v", seed, one, others, steps[2].Expect.Nodes)
		}
	}
	if len(chosen) < 4 {
		t.Errorf("40 seeds chose only %v", chosen)
	}
}
