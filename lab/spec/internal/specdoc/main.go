// Specdoc writes lab/spec/schema.json and docs/spec.md from the types and comments of package spec. It is run by "go
// generate ./lab/spec", in whose folder it works.
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// The files that are written, from the folder of package spec.
const (
	schemaFile   = "schema.json"
	markdownFile = "../../docs/spec.md"
)

func main() {
	if err := run("."); err != nil {
		fmt.Fprintln(os.Stderr, "specdoc:", err)
		os.Exit(1)
	}
}

// run writes both files for the package in dir.
func run(dir string) error {
	files, err := generate(dir)
	if err != nil {
		return err
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// generate returns the files' contents, by their names from dir.
func generate(dir string) (map[string][]byte, error) {
	s, err := buildSchema(dir)
	if err != nil {
		return nil, fmt.Errorf("make the schema of the types in %s: %w", dir, err)
	}
	data, err := encodeSchema(s)
	if err != nil {
		return nil, fmt.Errorf("write the schema as JSON: %w", err)
	}
	return map[string][]byte{schemaFile: data, markdownFile: []byte(markdown(s))}, nil
}
