package keylabtest

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// EnvArtifacts is the environment variable that names a folder for what is kept of tests. It should be absolute: go test runs each package in its own folder.
const EnvArtifacts = "KEYLAB_ARTIFACTS"

// artifacts is the folder for what a test keeps; empty: nothing is kept.
func artifacts(t testing.TB) string {
	if dir := os.Getenv(EnvArtifacts); dir != "" {
		return filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "_"))
	}
	if f := flag.Lookup("test.artifacts"); f != nil && f.Value.String() == "true" {
		return t.ArtifactDir()
	}
	return ""
}

// logLines is how many lines of each log are in a failed test's output.
const logLines = 15

// showLog prints the end of a log.
func showLog(t testing.TB, lab, name, text string) {
	t.Helper()
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	more := ""
	if len(lines) > logLines {
		lines, more = lines[len(lines)-logLines:], "…\n"
	}
	if text = strings.Join(lines, "\n"); text != "" {
		t.Logf("the log of %s of lab %s:\n%s%s", name, lab, more, text)
	}
}
