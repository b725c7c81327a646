// Rundoc writes report/run.schema.json and docs/run.md from the types and comments of a run in package report. It is run by "go generate
// ./report", in whose folder it works.
package main

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/invopop/jsonschema"

	"keylab.dev/keylab/internal/schemadoc"
	"keylab.dev/keylab/report"
)

// The files that are written, from the folder of package report.
const (
	schemaFile   = "run.schema.json"
	markdownFile = "../docs/run.md"
)

func main() {
	schemadoc.Main(generate)
}

// generate returns the files' contents, by their names from dir, the folder of package report.
func generate(dir string) (map[string][]byte, error) {
	s, err := buildSchema(dir)
	if err != nil {
		return nil, fmt.Errorf("make the schema of the types in %s: %w", dir, err)
	}
	data, err := schemadoc.JSON(s)
	return map[string][]byte{schemaFile: data, markdownFile: []byte(markdown(s))}, err
}

// buildSchema makes the schema of a run's JSON. What it does not know is allowed: a later keylab may have added it.
func buildSchema(dir string) (*jsonschema.Schema, error) {
	r := &jsonschema.Reflector{Anonymous: true, ExpandedStruct: true, AllowAdditionalProperties: true, Mapper: mapper}
	comments, err := schemadoc.Comments("keylab.dev/keylab/report", dir)
	if err != nil {
		return nil, err
	}
	r.LookupComment = func(t reflect.Type, field string) string { return comments[schemadoc.Name(t, field)] }
	s := r.Reflect(&report.Run{})
	s.Title = "keylab run"
	if p, ok := s.Properties.Get("schema"); ok {
		p.Const = report.RunSchema
	}
	return s, nil
}

// mapper gives the schema of the types that look otherwise in JSON than in Go.
func mapper(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return &jsonschema.Schema{Type: "number"}
	case reflect.TypeFor[report.Verdict]():
		return words(report.Passed, report.Failed, report.Broken, report.Interrupted)
	case reflect.TypeFor[report.StepKind]():
		return words(report.StepLab, report.StepAction, report.StepFault, report.StepMend, report.StepExpect, report.StepNever)
	case reflect.TypeFor[report.StepStatus]():
		return words(report.StepPassed, report.StepFailed, report.StepSkipped)
	case reflect.TypeFor[report.EntryKind]():
		return words(report.EntryState, report.EntryAttest, report.EntryAction, report.EntryCounter, report.EntryNotice, report.EntryLab, report.EntryPoll)
	}
	return nil
}

func words[T ~string](values ...T) *jsonschema.Schema {
	s := &jsonschema.Schema{Type: "string"}
	for _, v := range values {
		s.Enum = append(s.Enum, string(v))
	}
	return s
}

// sections are the parts of the page, in order: heading and name of the definition.
var sections = []struct{ heading, def string }{
	{"The document", ""}, {"steps[]", "Step"}, {"history[]", "Entry"}, {"nodes[]", "RunNode"}, {"gaps[]", "Gap"}, {"certificates[]", "Certificate"}, {"logs[]", "Log"},
}

const intro = `# A run in JSON

<!-- Made from the types in report/run.go by "go generate ./report"; changes here are lost. -->

What a run of a scenario writes as JSON, of the schema ` + "`" + report.RunSchema + "`" + ` (report/run.schema.json). Lengths of time are numbers of seconds; those called ` + "`at_seconds`" + ` are
counted from the run's start. A field may be added under the same name of the schema; one that is removed or changes its meaning gives it another name.

`

// markdown returns the page.
func markdown(root *jsonschema.Schema) string {
	var b strings.Builder
	b.WriteString(intro)
	for _, s := range sections {
		def := root
		if s.def != "" {
			def = root.Definitions[s.def]
		}
		fmt.Fprintf(&b, "## %s\n\n| field | value | | meaning |\n|---|---|---|---|\n", s.heading)
		for p := def.Properties.Oldest(); p != nil; p = p.Next() {
			need := "optional"
			for _, r := range def.Required {
				if r == p.Key {
					need = ""
				}
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", p.Key, value(p.Value), need, strings.ReplaceAll(p.Value.Description, "|", `\|`))
		}
		b.WriteString("\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// value says what stands in a field.
func value(p *jsonschema.Schema) string {
	switch {
	case p.Const != nil:
		return fmt.Sprintf("`%v`", p.Const)
	case len(p.Enum) > 0:
		var list []string
		for _, e := range p.Enum {
			list = append(list, fmt.Sprintf("`%v`", e))
		}
		return strings.Join(list, ", ")
	case p.Type == "array" && p.Items != nil && p.Items.Ref != "":
		for _, s := range sections {
			if strings.HasSuffix(p.Items.Ref, "/"+s.def) {
				return fmt.Sprintf("[list](#%s)", strings.TrimSuffix(s.heading, "[]"))
			}
		}
	case p.Type == "array":
		return "list of texts"
	case p.Format == "date-time":
		return "time, RFC 3339"
	case p.Type == "string":
		return "text"
	case p.Type == "boolean":
		return "`true`, `false`"
	}
	return p.Type
}
