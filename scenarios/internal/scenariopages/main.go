// Scenariopages writes docs/scenarios: a page for each scenario of the library, their index, and the list of all that a step can do. It is run by "go
// generate ./scenarios", in whose folder it works. docs/scenarios/writing.md is written by hand.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"keylab.dev/keylab/scenario"
	"keylab.dev/keylab/scenarios"
)

// pagesDir is where the pages are, from the folder of package scenarios.
const pagesDir = "../docs/scenarios"

// byHand are the files there that are not made.
var byHand = []string{"writing.md"}

func main() {
	if err := run("."); err != nil {
		fmt.Fprintln(os.Stderr, "scenariopages:", err)
		os.Exit(1)
	}
}

// run writes all pages for the package in dir, and deletes those of scenarios that there are no more.
func run(dir string) error {
	pages, err := generate()
	if err != nil {
		return err
	}
	out := filepath.Join(dir, pagesDir)
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for name, text := range pages {
		if err := os.WriteFile(filepath.Join(out, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	old, err := extra(out, pages)
	for _, name := range old {
		err = errors.Join(err, os.Remove(filepath.Join(out, name)))
	}
	return err
}

// extra are the files in a folder that are neither pages nor written by hand.
func extra(dir string, pages map[string]string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if _, ok := pages[e.Name()]; !ok && !slices.Contains(byHand, e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// generate returns the pages by the names of their files.
func generate() (map[string]string, error) {
	all, err := scenarios.All()
	if err != nil {
		return nil, err
	}
	pages := map[string]string{"README.md": index(all), "vocabulary.md": vocabulary(scenario.Vocabulary())}
	for _, s := range all {
		pages[s.Name+".md"] = page(s)
	}
	return pages, nil
}
