package netroles

import (
	"io"
	"strings"
	"testing"
)

func TestRunLateRefuses(t *testing.T) {
	for want, args := range map[string][]string{
		"needs a link, a delay and a jitter, not 1 arguments": {"eth0"},
		"the delay: ":  {"eth0", "soon", "0s"},
		"the jitter: ": {"eth0", "1s", "much"},
		"want a delay": {"eth0", "0s", "0s"},
		"find it: ":    {"no-such-link", "1s", "0s"},
	} {
		if err := RunLate(t.Context(), args, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}
