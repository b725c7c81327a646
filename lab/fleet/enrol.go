package fleet

import (
	"context"
	"fmt"
	"io"
	"time"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/verify"
)

// Enrol has Keylime's own tenant code hand one agent to the verifier, and writes what it printed to the log. The error is about asking; a
// refusal is in the answer.
func Enrol(ctx context.Context, tenant *keylime.Enroller, log io.Writer, request keylime.Request) (verify.Enrolment, error) {
	r, err := tenant.Enroll(ctx, request)
	if err != nil {
		return verify.Enrolment{}, err
	}
	fmt.Fprintf(log, "--- add %s: exit status %d, %.2f s\n%s\n", request.UUID, r.ExitCode, r.Duration.Seconds(), r.Output)
	return verify.Enrolment{Done: true, OK: r.OK, EKChecked: r.EKChecked, Message: r.Message, At: time.Now()}, nil
}

// CheckEnrolment is what a refusal means for `up`: one that the specification asked for is told to note, any other is an error.
func CheckEnrolment(n plan.Node, uuid string, e verify.Enrolment, requireEKCert bool, note func(text string)) error {
	if e.OK {
		return nil
	}
	if why, meant := n.RefusedOnPurpose(requireEKCert); meant {
		note(fmt.Sprintf("refused by the tenant, as the specification asks: %s. Keylime says: %s", why, e.Message))
		return nil
	}
	return fmt.Errorf("the tenant refused %s (%s): %s", n.Name, uuid, e.Message)
}

// AwaitAttested waits for the verifier's first successful attestation of a node.
func AwaitAttested(ctx context.Context, verifier *keylime.VerifierClient, node, uuid string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last := "none"
	for {
		a, err := verifier.Agent(ctx, uuid)
		switch {
		case err != nil:
			last = err.Error()
		case a.AttestationCount > 0:
			return nil
		default:
			last = "state " + a.OperationalState.String()
		}
		if err == nil && a.OperationalState.Stopped() {
			return fmt.Errorf("the verifier does not trust %s (%s): state %s, last event %q", node, uuid, a.OperationalState, a.LastEventID)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the first attestation of %s (%s): %w; the verifier's last answer: %s", node, uuid, context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}
