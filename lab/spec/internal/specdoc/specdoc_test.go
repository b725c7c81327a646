package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/invopop/jsonschema"
)

const dir = "../.." // package spec

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
			t.Errorf("%s is out of date; run go generate ./lab/spec (-types +file):\n%s", name, d)
		}
	}
}

// Every field and every definition of the schema says what it means.
func TestEverythingIsDescribed(t *testing.T) {
	s, err := buildSchema(dir)
	if err != nil {
		t.Fatal(err)
	}
	inSections := map[string]bool{}
	for _, sec := range sections {
		inSections[sec.def] = true
	}
	check := func(name string, def *jsonschema.Schema) {
		if def.Description == "" {
			t.Errorf("%s has no description", name)
		}
		each(def, func(field string, p *jsonschema.Schema) {
			if p.Description == "" {
				t.Errorf("%s.%s has no description", name, field)
			}
		})
	}
	check("the document", s)
	for name, def := range s.Definitions {
		check(name, def)
		if !inSections[name] {
			t.Errorf("%s is not in the reference: add it to sections", name)
		}
	}
}

// Every link in the reference leads to a heading.
func TestLinksLeadSomewhere(t *testing.T) {
	s, err := buildSchema(dir)
	if err != nil {
		t.Fatal(err)
	}
	text := markdown(s)
	headings := map[string]bool{}
	for line := range strings.Lines(text) {
		if h, ok := strings.CutPrefix(line, "## "); ok {
			slug := strings.NewReplacer("[", "", "]", "", ".", "", " ", "-").Replace(strings.ToLower(strings.TrimSpace(h)))
			headings[slug] = true
		}
	}
	for i, part := range strings.Split(text, "](#") {
		if target, _, _ := strings.Cut(part, ")"); i > 0 && !headings[target] {
			t.Errorf("nothing is called %q; headings: %v", target, headings)
		}
	}
}
