package scenario

import (
	"context"
	"os/exec"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/rotate"
)

// Lab is a running lab, as the engine needs it: what package lab has of it, and nothing of any substrate.
type Lab interface {
	rotate.Lab // also what a rotation of the EK CA needs
	Notices(ctx context.Context) ([]control.Notice, error)
	Measure(ctx context.Context, m control.Measurement) (control.Measured, error)
	Fault(ctx context.Context, f control.Fault) (string, error)
	HTTP(ctx context.Context, r control.HTTPRequest) (control.HTTPAnswer, error)
	// Mark is what the network has counted so far; Fired tells whether a fault was seen to be in effect since then.
	Mark(ctx context.Context) (control.Mark, error)
	Fired(ctx context.Context, f control.Fault, since control.Mark) (control.Proof, error)
	// Log is the log of a component or of a node's agent, of the lab's last run.
	Log(ctx context.Context, name string) ([]byte, error)
	Command(ctx context.Context, host string, argv ...string) (*exec.Cmd, error)
	TPMCommand(ctx context.Context, node string, argv ...string) (*exec.Cmd, error)
	TenantCommand(ctx context.Context, args ...string) (*exec.Cmd, error)
}
