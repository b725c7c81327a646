package kind

import (
	"strings"
	"testing"

	"keylab.dev/keylab/lab/control"
)

func TestNoMeasurementsYet(t *testing.T) {
	if _, err := (&Lab{}).Measure(t.Context(), control.Measurement{Kind: control.ShowList, Node: "node-1"}); err == nil || !strings.Contains(err.Error(), "not yet on kind") {
		t.Errorf("%v", err)
	}
}
