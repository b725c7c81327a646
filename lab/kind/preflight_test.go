package kind

import (
	"strings"
	"testing"

	"keylab.dev/keylab/internal/machine"
)

func TestMemory(t *testing.T) {
	if err := checkMemory(3, 2000); err != nil {
		t.Errorf("three nodes in 2000 MiB: %v", err)
	}
	err := checkMemory(20, 2000)
	if err == nil {
		t.Fatal("twenty nodes in 2000 MiB are not refused")
	}
	for _, want := range []string{"5800 MiB", "2000 MiB", "enough for 3", "--force"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if err := checkMemory(500, 0); err != nil {
		t.Errorf("unknown memory refuses: %v", err)
	}
	if n := machine.AvailableMemory(); n < 100 {
		t.Errorf("this machine has %d MiB", n)
	}
}

func TestOlder(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{{"1.40", "1.41", true}, {"1.41", "1.41", false}, {"1.9", "1.41", true}, {"1.50", "1.44", false}, {"2.0", "1.44", false}} {
		if got := older(c.a, c.b); got != c.want {
			t.Errorf("older(%s, %s) is %v", c.a, c.b, got)
		}
	}
}
