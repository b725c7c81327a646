package scenarios_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"keylab.dev/keylab/keylabtest"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/scenario"
	"keylab.dev/keylab/scenarios"
)

func TestMain(m *testing.M) {
	os.Setenv("DOCKER_HOST", "unix:///nowhere/docker.sock") // what this machine's Docker has must not show
	keylabtest.Main(m)
}

func library(t *testing.T) []scenario.Scenario {
	t.Helper()
	all, err := scenarios.All() // each is decoded, and has its file's name
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) != len(all) || len(files) < 20 {
		t.Fatalf("%d files, %d scenarios, %v", len(files), len(all), err)
	}
	return all
}

// The page of each scenario answers its four questions, and its chapter is one that says something.
func TestPagesAreComplete(t *testing.T) {
	for _, s := range library(t) {
		for what, text := range map[string]string{"question": s.About.Question, "happens": s.About.Happens, "why": s.About.Why, "fleet": s.About.Fleet} {
			if strings.TrimSpace(text) == "" {
				t.Errorf("%s: about.%s is missing", s.Name, what)
			}
		}
		if !strings.HasSuffix(strings.TrimSpace(s.About.Question), "?") {
			t.Errorf("%s: about.question asks nothing: %q", s.Name, s.About.Question)
		}
		if s.Topic == "other" {
			t.Errorf("%s: has no topic", s.Name)
		}
	}
}

// Each scenario can be run in every mode and on every substrate that it names.
func TestEveryModeAndSubstrate(t *testing.T) {
	for _, s := range library(t) {
		for _, mode := range s.Modes {
			for _, substrate := range s.Substrates {
				p, err := s.Prepare(scenario.Options{Mode: mode, Substrate: substrate})
				if err != nil || p.Lab.Keylime.Mode != mode || p.Lab.Substrate != substrate {
					t.Errorf("%s in mode %s on %s: %v", s.Name, mode, substrate, err)
				}
			}
		}
	}
}

// An idle lab must not meet what a scenario expects: each wants something that no lab does by itself, in every mode.
func TestEachExpectsMoreThanAttestation(t *testing.T) {
	for _, s := range library(t) {
		for _, mode := range s.Modes {
			p, err := s.In(mode)
			if err != nil {
				t.Errorf("%s: %v", s.Name, err)
				continue
			}
			if !slices.ContainsFunc(p.Steps, demanding) {
				t.Errorf("%s, mode %s: expects nothing but attestations of nodes to which nothing happens", s.Name, mode)
			}
		}
	}
}

// demanding tells whether a step cannot be met by a lab to which nothing happens: a fault must be seen, a refusal come, a state be another one.
func demanding(s scenario.Step) bool {
	e := s.Expect
	switch {
	case s.Fault != "" || s.Refused != "":
		return true
	case e == nil:
		return false
	}
	return e.Verify == "failed" || e.Detail != "" || e.Notice != nil || e.Counter != "" || e.Log != "" || len(e.Run) > 0 || e.HTTP != nil && e.HTTP.Error != "" ||
		e.State != "" && e.State != fleet.StateAttested && e.State != "running"
}

// Editors accept every file of the library, by the schema, and tell what Decode would refuse.
func TestSchema(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(scenario.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("scenario.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("scenario.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range library(t) {
		data, err := scenarios.Source(s.Name)
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(plain(t, data)); err != nil {
			t.Errorf("the schema refuses %s.yaml: %v", s.Name, err)
		}
	}
	const head = "apiVersion: keylab/v1alpha1\nkind: Scenario\nname: x\ntitle: X\n"
	for _, bad := range []string{
		"steps: [{expects: {verify: passed}}]", "modes: [pul]\nsteps: [{expect: {verify: passed}}]", "lab: {nodes: 0}\nsteps: [{expect: {verify: passed}}]",
		"topic: misc\nsteps: [{expect: {verify: passed}}]", "lab: {}",
	} {
		if _, err := scenario.Decode("bad.yaml", []byte(head+bad)); err == nil {
			t.Fatalf("Decode accepts %q", bad)
		}
		if schema.Validate(plain(t, []byte(head+bad))) == nil {
			t.Errorf("the schema accepts %q", bad)
		}
	}
}

// plain turns YAML into what a JSON document of the same content would hold.
func plain(t *testing.T, data []byte) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Every file of the library is asked for by its name, and a wrong name is helped with.
func TestUnknownName(t *testing.T) {
	if _, err := scenarios.Load("swaped-route"); err == nil || !strings.Contains(err.Error(), `did you mean "swapped-route"?`) {
		t.Errorf("%v", err)
	}
}
