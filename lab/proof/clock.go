package proof

import (
	"context"
	"time"

	"keylab.dev/keylab/lab/ask"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
)

// clockTolerance is how far a clock may be from what the fault wants: the date of an HTTP answer has whole seconds, and it was on its way.
const clockTolerance = 5 * time.Second

// clockSkew: the service itself says what time it is, in the Date of its answers (RFC 9110, section 6.6.1), and that is wrong by so much.
func clockSkew(ctx context.Context, t Target, f control.Fault, _ control.Mark) (control.Proof, error) {
	a, err := ask.HTTP(ctx, t, control.HTTPRequest{From: plan.Tenant, To: f.Component, Method: "GET", Path: "/version", As: control.AsAnonymous})
	if err != nil {
		return control.Proof{}, err
	}
	if a.Date.IsZero() {
		return unseen("the %s does not say what time it is: %s", f.Component, a.Error)
	}
	off, want := time.Until(a.Date).Round(time.Second), f.Duration("by")
	if (off - want).Abs() > clockTolerance {
		return unseen("by the answers of the %s it is %s: its clock is off by %s, not by %s", f.Component, a.Date.Format(time.RFC3339), off, want)
	}
	return seen("by the answers of the %s it is %s: its clock is off by %s", f.Component, a.Date.Format(time.RFC3339), off)
}
