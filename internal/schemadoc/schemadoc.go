// Package schemadoc is what the programs have in common that write schemas and pages from Go types, run by "go generate": comments as descriptions, JSON to
// be read, and files written beside the types.
package schemadoc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"
)

// Comments returns the comments of the types and fields of the package in dir, each on one line, by "Type" and "Type.Field".
func Comments(importPath, dir string) (map[string]string, error) {
	var r jsonschema.Reflector
	if err := r.AddGoComments(importPath, dir, jsonschema.WithFullComment()); err != nil {
		return nil, fmt.Errorf("read the comments of the types in %s: %w", dir, err)
	}
	out := map[string]string{}
	for name, text := range r.CommentMap {
		// The library names them by import path, dir and type.
		out[strings.TrimPrefix(name, path.Join(importPath, filepath.ToSlash(dir))+".")] = strings.Join(strings.Fields(text), " ")
	}
	return out, nil
}

// JSON returns a value as indented JSON.
func JSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("write as JSON: %w", err)
	}
	return b.Bytes(), nil
}

// Main is the main function of such a program: it writes the files, which generate returns by their names from the folder it is given, the working
// folder. It ends the program with status 1 if that fails.
func Main(generate func(dir string) (map[string][]byte, error)) {
	files, err := generate(".")
	for name, data := range files {
		if err == nil {
			err = os.WriteFile(name, data, 0o644)
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}

// Name is what a type, or one of its fields, is called among Comments. The field of the type itself is "".
func Name(t reflect.Type, field string) string {
	return strings.TrimSuffix(t.Name()+"."+field, ".")
}
