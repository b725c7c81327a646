package tpmsim

import (
	"errors"
	"strings"
	"testing"
)

func TestSelect(t *testing.T) {
	for _, name := range []string{"auto", "", "swtpm"} {
		if b, err := Select(name); err != nil || b.Name() != "swtpm" {
			t.Errorf("Select(%q) = %v, %v", name, b, err)
		}
	}
	if _, err := Select("hardware"); err == nil || errors.Is(err, ErrUnavailable) {
		t.Errorf("Select of an unknown backend: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	_, err := Select("swtpm")
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "apt install swtpm") {
		t.Errorf("without the program: %v, want how to get it", err)
	}
	b, err := Select("auto")
	if simulatorBuilt() == nil {
		if err != nil || b.Name() != "simulator" {
			t.Errorf("auto without swtpm: %v, %v, want the simulator", b, err)
		}
	} else if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "CGO_ENABLED=1") || !strings.Contains(err.Error(), "apt install swtpm") {
		t.Errorf("auto without any: %v, want both ways to get one", err)
	}
}
