package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	validator "github.com/santhosh-tekuri/jsonschema/v6"

	"keylab.dev/keylab/report"
	"keylab.dev/keylab/report/internal/sample"
)

const dir = "../.." // package report

func TestFilesAreUpToDate(t *testing.T) {
	files, err := generate(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), string(got)); d != "" {
			t.Errorf("%s is out of date; run go generate ./report (-types +file):\n%s", name, d)
		}
	}
}

// Every field says what it means, and every definition has its section on the page.
func TestEverythingIsDescribed(t *testing.T) {
	s, err := buildSchema(dir)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, sec := range sections {
		known[sec.def] = true
		def := s
		if sec.def != "" {
			def = s.Definitions[sec.def]
		}
		for p := def.Properties.Oldest(); p != nil; p = p.Next() {
			if p.Value.Description == "" {
				t.Errorf("%s.%s has no description", sec.heading, p.Key)
			}
		}
	}
	for name := range s.Definitions {
		if !known[name] {
			t.Errorf("%s is not on the page: add it to sections", name)
		}
	}
}

// What is written is what the schema says, and something else is not.
func TestRunsAreValid(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(dir, schemaFile))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := validator.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	c := validator.NewCompiler()
	if err := c.AddResource("run.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("run.json")
	if err != nil {
		t.Fatal(err)
	}
	check := func(text string) error {
		v, err := validator.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(v)
	}
	for _, r := range []report.Run{sample.Rotation(), sample.Swapped(), {Verdict: report.Broken}} {
		var out bytes.Buffer
		if err := report.WriteRunJSON(&out, r); err != nil {
			t.Fatal(err)
		}
		if err := check(out.String()); err != nil {
			t.Errorf("%s: %v", r.Scenario, err)
		}
	}
	data, err = json.Marshal(sample.Swapped())
	if err != nil {
		t.Fatal(err)
	}
	for old, wrong := range map[string]string{`"verdict":"failed"`: `"verdict":"perhaps"`, `"seconds":38.4`: `"seconds":"38.4s"`, `"scenario":`: `"name":`, report.RunSchema: "keylab.dev/run/v9"} {
		if text := strings.Replace(string(data), old, wrong, 1); check(text) == nil || text == string(data) {
			t.Errorf("%s is valid, or was not put in", wrong)
		}
	}
}
