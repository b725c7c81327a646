package main

import (
	"bytes"
	"strings"
	"testing"
)

// Wrong usage is found before any lab is made.
func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args   []string
		status int
		says   string
	}{
		{nil, 2, "name an AGENT, or a --push-agent, or both"},
		{[]string{"a", "b"}, 2, "accepts at most 1 arg"},
		{[]string{"--push-agent", "/does/not/exist"}, 2, "--push-agent: stat /does/not/exist"},
		{[]string{"/does/not/exist"}, 2, "AGENT: stat /does/not/exist"},
		{[]string{"main.go", "--only", "everything"}, 1, `only "everything"`},
		{[]string{"--nonsense"}, 2, "--nonsense"},
		{[]string{"on-a-host"}, 1, "read the order"},
		{[]string{"--help"}, 0, ""},
	} {
		var out, log bytes.Buffer
		status := run(t.Context(), c.args, strings.NewReader(""), &out, &log)
		if status != c.status || !strings.Contains(log.String(), c.says) {
			t.Errorf("keylab-parity %s: exit status %d, says %q; want %d and %q", strings.Join(c.args, " "), status, log.String(), c.status, c.says)
		}
	}
}
