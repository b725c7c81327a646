package main

import (
	"bytes"
	"strings"
	"testing"
)

// Wrong usage is found before anything is measured.
func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"--nodes", "1"}, 2, "nodes: 1 is too few"},
		{[]string{"--only", "everything"}, 2, `"everything"`},
		{[]string{"--agent-binary", "/does/not/exist"}, 2, "/does/not/exist"},
		{[]string{"--nonsense"}, 2, "--nonsense"},
		{[]string{"ask-for-quotes"}, 1, "read the order"},
		{[]string{"--help"}, 0, ""},
	} {
		var out, log bytes.Buffer
		status := run(t.Context(), c.args, strings.NewReader(""), &out, &log)
		if status != c.status || !strings.Contains(log.String(), c.says) {
			t.Errorf("keylab-bench %s: exit status %d, says %q; want %d and %q", strings.Join(c.args, " "), status, log.String(), c.status, c.says)
		}
	}
}
