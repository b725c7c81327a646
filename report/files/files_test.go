package files_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"keylab.dev/keylab/report"
	"keylab.dev/keylab/report/files"
)

// A folder has every report, and each tells of the run.
func TestWrite(t *testing.T) {
	run := report.Run{Scenario: "lost-node", Title: "A node is lost", Verdict: report.Failed, Error: "it came back", History: []report.Entry{{Kind: report.EntryState, Node: "lost-node"}}}
	dir := filepath.Join(t.TempDir(), "new", "one")
	path, err := files.WriteRun(dir, run)
	if err != nil || path != filepath.Join(dir, files.HTML) {
		t.Fatalf("%s, %v", path, err)
	}
	check(t, dir, files.History, files.HTML, files.JSON, files.JUnit, files.Markdown)

	both := filepath.Join(t.TempDir(), "both")
	if err := files.WriteRuns(both, []report.Run{run, run}); err != nil {
		t.Fatal(err)
	}
	check(t, both, files.HTML, files.JUnit, files.Markdown)

	checks := filepath.Join(t.TempDir(), "checks")
	if err := files.WriteResult(checks, report.Result{Lab: "lost-node", Checks: []report.Check{{ID: "quote", Status: report.Fail}}}); err != nil {
		t.Fatal(err)
	}
	check(t, checks, files.JSON, files.JUnit, files.Markdown)
}

func check(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil || !strings.Contains(string(data), "lost-node") {
			t.Errorf("%s does not tell of the run: %v\n%s", e.Name(), err, data)
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s has %v, want %v", dir, got, want)
	}
}

// A folder that cannot be made is an error that names it.
func TestWriteFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := files.WriteRun(filepath.Join(file, "run"), report.Run{}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("%v, want one that names %s", err, file)
	}
}
