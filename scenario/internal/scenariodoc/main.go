// Scenariodoc writes scenario/schema.json from the types and comments of package scenario and from the schema of a lab's file. It is run by "go generate
// ./scenario", in whose folder it works.
package main

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/invopop/jsonschema"

	"keylab.dev/keylab/internal/schemadoc"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/scenario"
)

const (
	schemaFile      = "schema.json"
	scenarioPackage = "keylab.dev/keylab/scenario"
)

func main() {
	schemadoc.Main(generate)
}

// generate returns the schema's file; the comments come from the package's source in dir.
func generate(dir string) (map[string][]byte, error) {
	r := &jsonschema.Reflector{Anonymous: true, ExpandedStruct: true, FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, Mapper: mapper}
	comments, err := schemadoc.Comments(scenarioPackage, dir)
	if err != nil {
		return nil, err
	}
	r.LookupComment = func(t reflect.Type, field string) string { return comments[schemadoc.Name(t, field)] }
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

	data, err := schemadoc.JSON(whole)
	return map[string][]byte{schemaFile: data}, err
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
