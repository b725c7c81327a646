package spec

import (
	_ "embed"
	"slices"
)

// schema is made from the types of this package by internal/specdoc.
//
//go:embed schema.json
var schema []byte

// Schema returns the JSON Schema (draft 2020-12) of a lab's file, as editors use it. It knows all fields, types,
// enumerations, fixed defaults and simple ranges; what concerns several fields at once only Validate knows. The error is
// always nil today; it is there because a schema may once be made at run time.
func Schema() ([]byte, error) { return slices.Clone(schema), nil }
