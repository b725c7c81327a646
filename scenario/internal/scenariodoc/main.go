// Scenariodoc writes scenario/schema.json from the types and comments of package scenario and from the schema of a lab's file. It is run by "go generate
// ./scenario", in whose folder it works.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"

	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/scenario"
)

const (
	schemaFile      = "schema.json"
	scenarioPackage = "keylab.dev/keylab/scenario"
)

func main() {
	data, err := generate(".")
	if err == nil {
		err = os.WriteFile(schemaFile, data, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "scenariodoc:", err)
		os.Exit(1)
	}
}

// generate returns the schema; the comments come from the package's source in dir.
func generate(dir string) ([]byte, error) {
	r := &jsonschema.Reflector{Anonymous: true, ExpandedStruct: true, FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, Mapper: mapper}
	comments := jsonschema.Reflector{}
	if err := comments.AddGoComments(scenarioPackage, dir, jsonschema.WithFullComment()); err != nil {
		return nil, fmt.Errorf("read the comments: %w", err)
	}
	// Names are import path and type, or type and field, with dir between them.
	texts := map[string]string{}
	for name, text := range comments.CommentMap {
		texts[strings.TrimPrefix(name, path.Join(scenarioPackage, dir)+".")] = strings.Join(strings.Fields(text), " ")
	}
	r.LookupComment = func(t reflect.Type, field string) string { return texts[strings.TrimSuffix(t.Name()+"."+field, ".")] }
	root := r.Reflect(&scenario.Scenario{})
	root.Title = "keylab scenario"

	lab, err := labSchema()
	if err != nil {
		return nil, err
	}
	out, err := json.Marshal(root)
	if err != nil {
		return nil, err
	}
	var whole map[string]any
	if err := json.Unmarshal(out, &whole); err != nil {
		return nil, err
	}
	defs := whole["$defs"].(map[string]any)
	for name, def := range lab["$defs"].(map[string]any) {
		if _, taken := defs[name]; taken {
			return nil, fmt.Errorf("both schemas define %s", name)
		}
		defs[name] = def
	}
	delete(lab, "$defs")
	defs["Lab"] = lab

	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err = e.Encode(whole)
	return b.Bytes(), err
}

// labSchema is that of a lab's file, without what only a document of its own needs.
func labSchema() (map[string]any, error) {
	data, err := spec.Schema()
	if err != nil {
		return nil, err
	}
	var lab map[string]any
	if err := json.Unmarshal(data, &lab); err != nil {
		return nil, fmt.Errorf("read the schema of a lab: %w", err)
	}
	delete(lab, "$schema")
	delete(lab, "title")
	delete(lab, "required")
	return lab, nil
}

func mapper(t reflect.Type) *jsonschema.Schema {
	one := uint64(1)
	switch t {
	case reflect.TypeFor[spec.Spec]():
		return &jsonschema.Schema{Ref: "#/$defs/Lab"}
	case reflect.TypeFor[spec.Duration]():
		return &jsonschema.Schema{Type: "string", Pattern: spec.DurationPattern, MinLength: &one}
	case reflect.TypeFor[spec.Mode]():
		return &jsonschema.Schema{Type: "string", Enum: []any{spec.ModePull, spec.ModePush}}
	case reflect.TypeFor[spec.Substrate]():
		return &jsonschema.Schema{Type: "string", Enum: []any{spec.SubstrateNetns, spec.SubstrateKind}}
	}
	return nil
}
