package scenario

import (
	"context"
	"os/exec"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/report"
)

// Lab is a running lab, as the engine needs it: what package lab has of it, and nothing of any substrate.
type Lab interface {
	Status(ctx context.Context) (control.Status, error)
	Verify(ctx context.Context) (report.Result, error)
	Notices(ctx context.Context) ([]control.Notice, error)
	Act(ctx context.Context, a control.Action) (string, error)
	Measure(ctx context.Context, m control.Measurement) (control.Measured, error)
	EK(ctx context.Context, o control.EKOrder) (control.EKDone, error)
	Fault(ctx context.Context, f control.Fault) (string, error)
	// Mark is what the network has counted so far; Fired tells whether a fault was seen to be in effect since then.
	Mark(ctx context.Context) (control.Mark, error)
	Fired(ctx context.Context, f control.Fault, since control.Mark) (control.Proof, error)
	Command(ctx context.Context, host string, argv ...string) (*exec.Cmd, error)
	TPMCommand(ctx context.Context, node string, argv ...string) (*exec.Cmd, error)
	TenantCommand(ctx context.Context, args ...string) (*exec.Cmd, error)
}
