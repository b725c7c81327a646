// Package scenarios is the library of experiments that comes with keylab: one file each, which is also the text of its page in the documentation.
package scenarios

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/scenario"
)

//go:generate go run ./internal/scenariopages

//go:embed *.yaml
var files embed.FS

// All are the scenarios of the library, by topic and then by name.
func All() ([]scenario.Scenario, error) {
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, err
	}
	var all []scenario.Scenario
	for _, name := range names {
		s, err := Load(strings.TrimSuffix(name, ".yaml"))
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	slices.SortStableFunc(all, func(a, b scenario.Scenario) int {
		return slices.Index(scenario.Topics, a.Topic) - slices.Index(scenario.Topics, b.Topic)
	})
	return all, nil
}

// Source is the file of a scenario of the library. The error names those that there are.
func Source(name string) ([]byte, error) {
	data, err := files.ReadFile(name + ".yaml")
	if err != nil {
		known, _ := fs.Glob(files, "*.yaml")
		for i := range known {
			known[i] = strings.TrimSuffix(known[i], ".yaml")
		}
		return nil, fmt.Errorf("the library has no scenario %q%s: `keylab scenario list` shows them; a file is named with its folder or its ending", name, spec.DidYouMean(name, known))
	}
	return data, nil
}

// Load is a scenario of the library.
func Load(name string) (scenario.Scenario, error) {
	data, err := Source(name)
	if err != nil {
		return scenario.Scenario{}, err
	}
	s, err := scenario.Decode(name+".yaml", data)
	if err == nil && s.Name != name {
		err = fmt.Errorf("%s.yaml names the scenario %q", name, s.Name)
	}
	return s, err
}
