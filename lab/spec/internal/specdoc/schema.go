package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/invopop/jsonschema"

	"keylab.dev/keylab/internal/schemadoc"
	"keylab.dev/keylab/lab/spec"
)

const specPackage = "keylab.dev/keylab/lab/spec"

// buildSchema makes the schema of a lab's file from the Go types; the comments come from the package's source in dir.
func buildSchema(dir string) (*jsonschema.Schema, error) {
	r := &jsonschema.Reflector{
		Anonymous:                  true,
		ExpandedStruct:             true,
		FieldNameTag:               "yaml",
		RequiredFromJSONSchemaTags: true,
		Mapper:                     mapper,
	}
	comments, err := typeComments(dir)
	if err != nil {
		return nil, err
	}
	r.LookupComment = func(t reflect.Type, field string) string {
		name := schemadoc.Name(t, field)
		if own, ok := comments[name]; ok {
			return own
		}
		return comments[strings.TrimPrefix(name, "Node")] // NodeTPM has the fields of TPM
	}
	root := r.Reflect(&spec.Spec{})
	root.Title = "keylab lab"

	r.ExpandedStruct = false
	for name, def := range r.Reflect(&spec.Node{}).Definitions {
		root.Definitions[name] = def
	}
	for name, def := range root.Definitions {
		each(def, func(_ string, p *jsonschema.Schema) {
			if name == "NodeTPM" || name == "NodeAgent" {
				p.Default = nil // left out, it is the lab's value
			}
		})
	}
	version, _ := root.Definitions["Keylime"].Properties.Get("version")
	for _, v := range spec.KeylimeVersions {
		version.Enum = append(version.Enum, v)
	}
	addRanges(root, reflect.TypeFor[spec.Spec]())
	for name, t := range map[string]reflect.Type{
		"EKCA": reflect.TypeFor[spec.EKCA](), "Keylime": reflect.TypeFor[spec.Keylime](), "Timeouts": reflect.TypeFor[spec.Timeouts](),
	} {
		addRanges(root.Definitions[name], t)
	}
	return root, nil
}

// each calls f for every property of s, in order.
func each(s *jsonschema.Schema, f func(name string, p *jsonschema.Schema)) {
	if s.Properties == nil {
		return
	}
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		f(p.Key, p.Value)
	}
}

// addRanges puts the range of a duration into its description, as JSON Schema knows none for texts.
func addRanges(s *jsonschema.Schema, t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Type != reflect.TypeFor[spec.Duration]() {
			continue
		}
		var low, high string
		for part := range strings.SplitSeq(f.Tag.Get("jsonschema"), ",") {
			if v, ok := strings.CutPrefix(part, "minimum="); ok {
				low = v
			}
			if v, ok := strings.CutPrefix(part, "maximum="); ok {
				high = v
			}
		}
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if p, ok := s.Properties.Get(name); ok && low != "" {
			p.Description += fmt.Sprintf(" From %s to %s.", low, high)
		}
	}
}

// mapper gives the schema of the types that look otherwise in the file than in Go.
func mapper(t reflect.Type) *jsonschema.Schema {
	one := uint64(1)
	maxNodes := uint64(spec.MaxNodes)
	switch t {
	case reflect.TypeFor[spec.Nodes]():
		return &jsonschema.Schema{
			OneOf: []*jsonschema.Schema{
				{Type: "integer", Minimum: "1", Maximum: json.Number(fmt.Sprint(spec.MaxNodes))},
				{Type: "array", Items: &jsonschema.Schema{Ref: "#/$defs/Node"}, MinItems: &one, MaxItems: &maxNodes},
			},
			Default: spec.DefaultNodes,
		}
	case reflect.TypeFor[spec.Duration]():
		return &jsonschema.Schema{Type: "string", Pattern: spec.DurationPattern, MinLength: &one}
	case reflect.TypeFor[netip.Prefix]():
		return &jsonschema.Schema{Type: "string", Pattern: `^[0-9]+([.][0-9]+){3}/[0-9]+$`}
	case reflect.TypeFor[netip.Addr]():
		return &jsonschema.Schema{Type: "string", Format: "ipv4"}
	case reflect.TypeFor[time.Time]():
		return &jsonschema.Schema{Type: "string", Pattern: `^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:.]+(Z|[+-][0-9]{2}:[0-9]{2}))?$`}
	case reflect.TypeFor[map[string]map[string]string]():
		var components []any
		for _, c := range spec.OptionComponents {
			components = append(components, c)
		}
		return &jsonschema.Schema{
			Type:          "object",
			PropertyNames: &jsonschema.Schema{Enum: components},
			AdditionalProperties: &jsonschema.Schema{
				Type: "object",
				AdditionalProperties: &jsonschema.Schema{
					OneOf: []*jsonschema.Schema{{Type: "string"}, {Type: "number"}, {Type: "boolean"}},
				},
			},
		}
	}
	return nil
}

// docLink is a reference to a Go name in a comment, which means nothing outside of Go.
var docLink = regexp.MustCompile(`\[([A-Z][A-Za-z]*)\]`)

// typeComments are those of the types and fields in dir, for readers who need not know Go.
func typeComments(dir string) (map[string]string, error) {
	comments, err := schemadoc.Comments(specPackage, dir)
	for name, text := range comments {
		if !strings.Contains(name, ".") {
			comments[name] = docLink.ReplaceAllString(text, "$1")
		}
	}
	return comments, err
}
