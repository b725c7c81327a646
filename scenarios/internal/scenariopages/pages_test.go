package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylab.dev/keylab/scenario"
)

const docs = "../../../docs/scenarios"

func TestPagesAreUpToDate(t *testing.T) {
	pages, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range pages {
		got, err := os.ReadFile(filepath.Join(docs, name))
		if err != nil {
			t.Errorf("docs/scenarios has no page %s: run make docs", name)
			continue
		}
		if d := cmp.Diff(want, string(got)); d != "" {
			t.Errorf("docs/scenarios/%s is out of date: run make docs (-library +page):\n%s", name, d)
		}
	}
	old, err := extra(docs, pages)
	if err != nil || len(old) > 0 {
		t.Errorf("docs/scenarios has pages of no scenario: %v, %v: run make docs", old, err)
	}
}

// A page answers its four questions and shows every step.
func TestPage(t *testing.T) {
	s, err := scenario.Decode("lost.yaml", []byte(`apiVersion: keylab/v1alpha1
kind: Scenario
name: lost
title: A *lost* node
topic: faults
about: {question: "Is a < b?", happens: It is., why: "It\n\nmust be.", fleet: Nothing.}
modes: [pull, push]
lab: {nodes: 2}
steps:
  - {id: cut, fault: partition, nodes: [any]}
  - {expect: {nodes: [any], state: failed}, within: 30s, only: pull}
  - {mend: partition, nodes: [any], leave: true}
  - {hold: 2s}
  - {do: enrol, nodes: [any], refused: no|never}
  - {name: nobody else, never: {nodes: [others], state: failed}, since: cut}
`))
	if err != nil {
		t.Fatal(err)
	}
	got := page(s)
	for _, want := range []string{
		"# A \\*lost\\* node\n", "[Faults](README.md#faults) · modes pull and push · substrates netns and kind · 2 nodes",
		"## Question\n\nIs a &lt; b?\n", "## What happens\n\nIt is.\n", "## Why\n\nIt\n\nmust be.\n", "## What it means for a fleet\n\nNothing.\n",
		"1. **break** `partition` one node: cut a node off from everything\n",
		"2. **expect** one node failed, within 30s; only in mode pull\n",
		"3. **mend** `partition` one node, without telling the verifier\n",
		"4. Go on for 2s\n",
		"5. **do** `enrol` one node, which must be refused, with a text that matches `no|never`: have Keylime forget the node, and the tenant enrol it anew\n",
		"6. Nobody else: **never** any other node failed, since step 1\n",
		"$ keylab run lost --mode all\n", "(../../scenarios/lost.yaml)",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the page does not have %q", want)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}

// The scenario of the tutorial is one, and its dry run is as it says.
func TestTutorial(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(docs, "writing.md"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindSubmatch(text)
	if m == nil {
		t.Fatal("there is no scenario in it")
	}
	s, err := scenario.Decode("lost-node.yaml", m[1])
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Steps) != 6 {
		t.Errorf("%d steps; the tutorial says 6", len(s.Steps))
	}
	for i, step := range s.Cast(1)[:2] {
		if !strings.Contains(string(text), "  "+string(rune('1'+i))+"  "+step.Sentence()+"\n") {
			t.Errorf("the tutorial does not show step %d as keylab run --dry-run does: %s", i+1, step.Sentence())
		}
	}
}

// Every link of the pages leads to a file, and within it to a heading.
func TestLinks(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(docs, "*.md"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	link := regexp.MustCompile(`\]\(([^)]+)\)`)
	for _, file := range append(files, filepath.Join(docs, "..", "ci.md")) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			path, heading, _ := strings.Cut(m[1], "#")
			target, err := os.ReadFile(filepath.Join(filepath.Dir(file), path))
			if err != nil {
				t.Errorf("%s: %v", file, err)
			} else if heading != "" && !headings(string(target))[heading] {
				t.Errorf("%s: %s has no heading #%s", file, path, heading)
			}
		}
	}
}

func headings(text string) map[string]bool {
	out := map[string]bool{}
	for line := range strings.Lines(text) {
		if h := strings.TrimLeft(line, "#"); h != line {
			out[anchor(strings.TrimSpace(h))] = true
		}
	}
	return out
}
