package kind

import (
	"context"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
)

// Measure is not there yet: the nodes of a cluster measure nothing.
func (l *Lab) Measure(context.Context, control.Measurement) (control.Measured, error) {
	return control.Measured{}, fleet.ErrNotOnKind
}
