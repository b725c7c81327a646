package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const dir = "../.." // package scenario

func TestSchemaIsUpToDate(t *testing.T) {
	files, err := generate(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, schemaFile))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(files[schemaFile]), string(got)); d != "" {
		t.Errorf("scenario/%s is out of date; run go generate ./scenario (-types +file):\n%s", schemaFile, d)
	}
}

// Every field says what it means.
func TestEverythingIsDescribed(t *testing.T) {
	files, err := generate(dir)
	if err != nil {
		t.Fatal(err)
	}
	type object struct {
		Properties map[string]struct{ Description string }
	}
	var schema struct {
		object
		Defs map[string]object `json:"$defs"`
	}
	if err := json.Unmarshal(files[schemaFile], &schema); err != nil {
		t.Fatal(err)
	}
	schema.Defs["the document"] = schema.object
	for name, def := range schema.Defs {
		for field, p := range def.Properties {
			if p.Description == "" {
				t.Errorf("%s.%s has no description", name, field)
			}
		}
	}
}
