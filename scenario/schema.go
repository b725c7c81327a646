package scenario

import (
	_ "embed"
	"slices"
)

//go:generate go run ./internal/scenariodoc

//go:embed schema.json
var schema []byte

// Schema is the JSON Schema (draft 2020-12) of a scenario's file, as editors use it. What concerns several fields at once, and the names of actions and
// faults, only Decode knows.
func Schema() []byte { return slices.Clone(schema) }
