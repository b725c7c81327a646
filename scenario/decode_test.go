package scenario_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/scenario"
)

const header = "apiVersion: keylab/v1alpha1\nkind: Scenario\nname: x\ntitle: X\n"

// A file with five mistakes gets five messages, each with its place, in the order of the file.
func TestFiveMistakes(t *testing.T) {
	_, err := scenario.Decode("five.yaml", []byte(header+`modes: [pul]
lab: {nodes: 2, keylime: {quoteInterval: fast}}
steps:
  - fault: swaped-route
    nodes: [node-1, node-2]
  - expect: {nodes: [node-3], state: failed}
  - do: reboot
`))
	var invalid *spec.InvalidError
	if !errors.As(err, &invalid) {
		t.Fatalf("%v, want a *spec.InvalidError", err)
	}
	want := []string{
		`five.yaml:5:9: modes[0]: "pul" is not one of pull, push: did you mean "pull"?`,
		`five.yaml:6:42: lab.keylime.quoteInterval: "fast" is not a duration`,
		`five.yaml:8:12: steps[0].fault: "swaped-route" is not one of`,
		`five.yaml:10:22: steps[1].expect.nodes[0]: the lab has no node "node-3"; it has node-1, node-2`,
		`five.yaml:11:5: steps[2].nodes: reboot needs 1 to 500 nodes, not 0`,
	}
	if len(invalid.Problems) != len(want) {
		t.Fatalf("%d problems, want %d:\n%v", len(invalid.Problems), len(want), err)
	}
	for i, p := range invalid.Problems {
		if !strings.HasPrefix(p.String(), want[i]) {
			t.Errorf("problem %d: %s\nwant        %s…", i+1, p, want[i])
		}
	}
}

// Each mistake is told by the place where it is and by what to do.
func TestMistakes(t *testing.T) {
	for name, c := range map[string]struct{ steps, path, want string }{
		"no steps":                {"steps: []", "steps", "empty list"},
		"steps left out":          {"topic: faults", "steps", "is missing"},
		"nothing expected":        {"steps: [{do: reboot, nodes: [node-1]}]", "steps", "expect nothing"},
		"nothing done":            {"steps: [{name: nothing}]", "steps[0]", "does nothing: give it one of do, fault"},
		"two things":              {"steps: [{do: reboot, nodes: [node-1], expect: {verify: passed}}]", "steps[0].expect", "this one has do and expect"},
		"unknown action":          {"steps: [{do: reboots, nodes: [node-1], refused: x}]", "steps[0].do", `did you mean "reboot"?`},
		"unknown option":          {"steps: [{do: reboot, nodes: [node-1], with: {hard: yes}, refused: x}]", "steps[0].with.hard", `reboot has no option "hard"; it has none`},
		"missing option":          {"steps: [{do: ima-add, nodes: [node-1], refused: x}]", "steps[0].with", `ima-add needs the option "path"`},
		"no program":              {"steps: [{do: exec, nodes: [node-1], refused: x}]", "steps[0].run", "exec needs a program"},
		"option of another kind":  {"steps: [{expect: {verify: passed}, nodes: [node-1]}]", "steps[0].nodes", "means nothing in a step with expect"},
		"others that are none":    {"lab: {nodes: 2}\nsteps: [{do: reboot, nodes: [node-1]}, {do: reboot, nodes: [node-2]}, {never: {nodes: [others], state: failed}}]", "steps[2].never.nodes", "others are none: the steps before name every node"},
		"condition of nothing":    {"steps: [{expect: {state: failed}}]", "steps[0].expect", "is about one of nodes, component"},
		"condition of two things": {"steps: [{expect: {nodes: [node-1], verify: passed, state: off}}]", "steps[0].expect", "this is about nodes, verify"},
		"condition too bare":      {"steps: [{expect: {nodes: [node-1]}}]", "steps[0].expect", "says nothing of nodes"},
		"unknown state":           {"steps: [{expect: {nodes: [node-1], state: fialed}}]", "steps[0].expect.state", `did you mean "failed"?`},
		"bad expression":          {"steps: [{expect: {nodes: [node-1], detail: '('}}]", "steps[0].expect.detail", "is no regular expression"},
		"never about verify":      {"steps: [{never: {verify: passed}}]", "steps[0].never", "verify, log, run and http are for expect"},
		"fails left out":          {"steps: [{expect: {verify: failed}}]", "steps[0].expect", "add fails"},
		"log of nothing":          {"steps: [{expect: {log: verifier}}]", "steps[0].expect", "add output"},
		"no host":                 {"steps: [{expect: {run: ['true']}}]", "steps[0].expect", "add on"},
		"unknown method":          {"steps: [{expect: {http: {to: verifier, method: TAKE, path: /, status: 200}}}]", "steps[0].expect.http.method", "TAKE"},
		"nobody to ask":           {"steps: [{expect: {http: {to: verifer, path: /, status: 200}}}]", "steps[0].expect.http.to", `did you mean "verifier"?`},
		"verifier without TLS":    {"steps: [{expect: {http: {to: verifier, as: plain, path: /, status: 200}}}]", "steps[0].expect.http", "nobody but the registrar"},
		"no status":               {"steps: [{expect: {http: {to: verifier, path: /}}}]", "steps[0].expect.http", "needs a status, or an error"},
		"status and error":        {"steps: [{expect: {http: {to: verifier, path: /, status: 200, error: x}}}]", "steps[0].expect.http", "needs a status, or an error"},
		"no such status":          {"steps: [{expect: {http: {to: verifier, path: /, status: 20}}}]", "steps[0].expect.http.status", "20"},
		"unknown template's node": {"steps: [{expect: {http: {to: verifier, path: '/${node-9.uuid}', status: 200}}}]", "steps[0].expect.http.path", `no node "node-9"`},
		"forgotten is a state":    {"steps: [{expect: {nodes: [node-1], state: forgoten}}]", "steps[0].expect.state", `did you mean "forgotten"?`},
		"unknown since":           {"steps: [{expect: {verify: passed}, since: later}]", "steps[0].since", "there are now, start"},
		"id given twice":          {"steps: [{id: a, expect: {verify: passed}}, {id: a, expect: {verify: passed}}]", "steps[1].id", "id of a step before"},
		"unknown template":        {"steps: [{expect: {run: ['${node-9.uuid}'], on: tenant}}]", "steps[0].expect.run[0]", `no node "node-9"`},
		"template of nothing":     {"steps: [{expect: {run: ['${node-1.color}'], on: tenant}}]", "steps[0].expect.run[0]", "uuid, hostname, address"},
		"add of a node it has":    {"steps: [{do: add, nodes: [node-1]}, {expect: {verify: passed}}]", "steps[0].nodes[0]", `the lab has a node "node-1" then`},
		"add of any":              {"steps: [{do: add, nodes: [any]}, {expect: {verify: passed}}]", "steps[0].nodes[0]", "needs the names of nodes"},
		"add of no name":          {"steps: [{do: add, nodes: [registrar]}, {expect: {verify: passed}}]", "steps[0].nodes[0]", `"registrar" cannot join: `},
		"remove of one that left": {"steps: [{do: remove, nodes: [node-1]}, {do: remove, nodes: [node-1]}, {expect: {verify: passed}}]", "steps[1].nodes[0]", `no node "node-1" then`},
		"a definition of no node": {"steps: [{do: add, nodes: [n9], with: {definition: 'ekk: {}'}}, {expect: {verify: passed}}]", "steps[0].with.definition", `unknown field "ekk"`},
		"a name in a definition":  {"steps: [{do: add, nodes: [n9], with: {definition: 'name: n9'}}, {expect: {verify: passed}}]", "steps[0].with.definition", "stands in the step's nodes"},
		"an agent of no kind":     {"steps: [{do: replace-agent, nodes: [node-1], with: {kind: rust}}, {expect: {verify: passed}}]", "steps[0].with.kind", `"rust" is no kind of agent`},
		"an agent of none":        {"steps: [{do: replace-agent, nodes: [node-1]}, {expect: {verify: passed}}]", "steps[0].with", `needs the option "kind"`},
		"an agent without path":   {"steps: [{do: replace-agent, nodes: [node-1], with: {kind: binary}}, {expect: {verify: passed}}]", "steps[0].with.kind", "needs the path"},
		"a path for no program":   {"steps: [{do: replace-agent, nodes: [node-1], with: {kind: go, path: x}}, {expect: {verify: passed}}]", "steps[0].with.path", "kind binary only"},
		"a lab not for its mode":  {"modes: [pull, push]\nlab: {keylime: {quoteInterval: 500ms}}\nsteps: [{expect: {verify: passed}}]", "lab.keylime.quoteInterval", "in mode push"},
		"a mistake in the lab":    {"lab: {nodes: 0}\nsteps: [{expect: {verify: passed}}]", "lab.nodes", "0 is too small"},
	} {
		_, err := scenario.Decode("f.yaml", []byte(header+c.steps+"\n"))
		var invalid *spec.InvalidError
		if !errors.As(err, &invalid) {
			t.Errorf("%s: %v, want a *spec.InvalidError", name, err)
			continue
		}
		if i := slices.IndexFunc(invalid.Problems, func(p spec.Problem) bool { return p.Path == c.path && strings.Contains(p.Message, c.want) }); i < 0 || invalid.Problems[i].Line == 0 {
			t.Errorf("%s: no problem at %s says %q:\n%v", name, c.path, c.want, err)
		}
	}
}

// Paths, of an agent's program and in the lab, are relative to the scenario's file.
func TestAgentPaths(t *testing.T) {
	const steps = "steps:\n  - {do: replace-agent, nodes: [node-1], with: {kind: binary, path: bin/agent}}\n" +
		"  - {do: replace-agent, nodes: [node-1], with: {kind: binary, path: /bin/agent}}\n  - {do: replace-agent, nodes: [node-1], with: {kind: go}}\n  - expect: {verify: passed}\n"
	s, err := scenario.Decode("/some/folder/f.yaml", []byte(header+"lab: {payload: {file: ../all.zip}}\n"+steps))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Lab.Payload.File; got != "/some/all.zip" {
		t.Errorf("the lab's payload: %q", got)
	}
	for i, want := range []string{"/some/folder/bin/agent", "/bin/agent", ""} {
		if got := s.Steps[i].With["path"]; got != want {
			t.Errorf("step %d: %q, want %q", i, got, want)
		}
	}
}

// The examples are scenarios that their readers can run.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../examples/scenarios/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("examples: %v, %v", files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		s, err := scenario.Decode(file, data)
		if err != nil {
			t.Error(err)
		}
		for _, mode := range s.Modes {
			if _, err := s.Prepare(scenario.Options{Mode: mode}); err != nil {
				t.Errorf("%s in mode %s: %v", file, mode, err)
			}
		}
	}
}

// What a scenario leaves out.
func TestDefaults(t *testing.T) {
	s, err := scenario.Decode("f.yaml", []byte(header+"steps: [{expect: {verify: passed}}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Nodes(); !slices.Equal(got, []string{"node-1", "node-2", "node-3"}) {
		t.Errorf("nodes %v", got)
	}
	if !slices.Equal(s.Modes, []spec.Mode{spec.ModePull}) || len(s.Substrates) != 2 || s.Topic != "other" {
		t.Errorf("modes %v, substrates %v, topic %s", s.Modes, s.Substrates, s.Topic)
	}
	if _, err := s.Prepare(scenario.Options{Mode: spec.ModePush}); err == nil || !strings.Contains(err.Error(), "not for mode push") {
		t.Errorf("a mode that it is not for: %v", err)
	}
}

// In one mode, the steps for the other one are left out, and the lab is of that mode.
func TestModes(t *testing.T) {
	s, err := scenario.Decode("f.yaml", []byte(header+"modes: [pull, push]\nsteps: [{expect: {verify: passed}}, {name: a, only: pull, expect: {verify: passed}}, {name: b, only: push, expect: {verify: passed}}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []spec.Mode{spec.ModePull, spec.ModePush} {
		p, err := s.Prepare(scenario.Options{Mode: mode})
		if err != nil {
			t.Fatal(err)
		}
		want := map[spec.Mode]string{spec.ModePull: "a", spec.ModePush: "b"}[mode]
		if len(p.Steps) != 2 || p.Steps[1].Name != want || p.Lab.Keylime.Mode != mode {
			t.Errorf("%s: mode %s, steps %+v", mode, p.Lab.Keylime.Mode, p.Steps)
		}
	}
	if len(s.Steps) != 3 {
		t.Error("the scenario itself was changed")
	}
}

// Nodes that join can be spoken of, and a node that left can come back.
func TestMembers(t *testing.T) {
	s, err := scenario.Decode("f.yaml", []byte(header+`lab: {nodes: 2}
steps:
  - {do: add, nodes: [node-3]}
  - expect: {nodes: [all], attestations: 1}
  - {do: remove, nodes: [node-1, node-3]}
  - expect: {nodes: [all], attestations: 1}
  - {do: add, nodes: [node-1]}
  - expect: {run: [echo, "${node-3.uuid}"], on: node-1}
  - expect: {nodes: [all], attestations: 1}
`))
	if err != nil {
		t.Fatal(err)
	}
	var all [][]string
	for _, step := range s.Cast(1) {
		if step.Expect != nil && len(step.Expect.Nodes) > 0 {
			all = append(all, step.Expect.Nodes)
		}
	}
	if want := [][]string{{"node-1", "node-2", "node-3"}, {"node-2"}, {"node-2", "node-1"}}; !slices.EqualFunc(all, want, slices.Equal[[]string]) {
		t.Errorf("all are %v, want %v", all, want)
	}
}
