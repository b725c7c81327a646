package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// jsonHas looks into a JSON document: json FILE PATH [REGEXP]. A path is names and indices with dots between them, where *
// stands for each element of a list, which must have some: nodes.*.state
func jsonHas(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: json FILE PATH [REGEXP]")
	}
	var doc any
	if err := json.Unmarshal([]byte(ts.ReadFile(args[0])), &doc); err != nil {
		ts.Fatalf("%s is not JSON: %v", args[0], err)
	}
	err := lookInto(doc, args[1], args[2:])
	if neg && err == nil {
		ts.Fatalf("%s is there", args[1])
	}
	if !neg && err != nil {
		ts.Fatalf("%s: %v", args[1], err)
	}
}

func lookInto(doc any, path string, want []string) error {
	if path == "" {
		if len(want) == 0 {
			return nil
		}
		text := fmt.Sprint(doc)
		if f, ok := doc.(float64); ok {
			text = strconv.FormatFloat(f, 'f', -1, 64)
		}
		re, err := regexp.Compile("^(?:" + want[0] + ")$")
		if err != nil {
			return err
		}
		if !re.MatchString(text) {
			return fmt.Errorf("%s does not match %s", text, want[0])
		}
		return nil
	}
	name, rest, _ := strings.Cut(path, ".")
	switch v := doc.(type) {
	case map[string]any:
		child, ok := v[name]
		if !ok {
			return fmt.Errorf("no %s", name)
		}
		return lookInto(child, rest, want)
	case []any:
		if name == "*" {
			if len(v) == 0 {
				return fmt.Errorf("the list is empty")
			}
			for i, child := range v {
				if err := lookInto(child, rest, want); err != nil {
					return fmt.Errorf("element %d: %w", i, err)
				}
			}
			return nil
		}
		i, err := strconv.Atoi(name)
		if err != nil || i < 0 || i >= len(v) {
			return fmt.Errorf("no element %s in a list of %d", name, len(v))
		}
		return lookInto(v[i], rest, want)
	}
	return fmt.Errorf("nothing below %v", doc)
}
