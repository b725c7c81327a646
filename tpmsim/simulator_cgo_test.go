//go:build cgo

package tpmsim

import (
	"errors"
	"strings"
	"testing"
)

func TestSimulatorNeedsTheHook(t *testing.T) {
	childHook.Store(false)
	defer childHook.Store(true)
	if err := Simulator().Available(); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "MaybeRunChild") {
		t.Errorf("error is %v", err)
	}
}
