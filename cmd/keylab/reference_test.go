package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

var writeDocs = flag.Bool("write-docs", false, "write docs/cli.md anew")

const referenceFile = "../../docs/cli.md"

// TestCommandReference holds docs/cli.md against the command line itself.
func TestCommandReference(t *testing.T) {
	var want bytes.Buffer
	want.WriteString("# The command line\n\nThis page is written by `make docs` from the commands themselves.\n\n")
	root := newRoot(streams{strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{}})
	root.InitDefaultHelpFlag()
	writeReference(&want, root)
	if *writeDocs {
		if err := os.WriteFile(referenceFile, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(referenceFile)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(got)); diff != "" {
		t.Errorf("docs/cli.md is not current: run make docs (-want +got):\n%s", diff)
	}
}

// writeReference writes a command and those below it.
func writeReference(w *bytes.Buffer, c *cobra.Command) {
	fmt.Fprintf(w, "## %s\n\n", c.CommandPath())
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	fmt.Fprintf(w, "```\n%s\n```\n\n", strings.TrimSpace(text))
	if c.Runnable() {
		fmt.Fprintf(w, "Usage: `%s`\n\n", c.UseLine())
	}
	if c.Example != "" {
		fmt.Fprintf(w, "Examples:\n\n```console\n%s\n```\n\n", c.Example)
	}
	if flags := c.NonInheritedFlags().FlagUsages(); flags != "" {
		fmt.Fprintf(w, "```\n%s```\n\n", flags)
	}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" && sub.Name() != "completion" {
			writeReference(w, sub)
		}
	}
}
