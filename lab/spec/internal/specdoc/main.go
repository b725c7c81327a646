// Specdoc writes lab/spec/schema.json and docs/spec.md from the types and comments of package spec. It is run by "go
// generate ./lab/spec", in whose folder it works.
package main

import (
	"fmt"

	"keylab.dev/keylab/internal/schemadoc"
)

// The files that are written, from the folder of package spec.
const (
	schemaFile   = "schema.json"
	markdownFile = "../../docs/spec.md"
)

func main() {
	schemadoc.Main(generate)
}

// generate returns the files' contents, by their names from dir.
func generate(dir string) (map[string][]byte, error) {
	s, err := buildSchema(dir)
	if err != nil {
		return nil, fmt.Errorf("make the schema of the types in %s: %w", dir, err)
	}
	data, err := schemadoc.JSON(s)
	return map[string][]byte{schemaFile: data, markdownFile: []byte(markdown(s))}, err
}
