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

// CheckFirstEnrolment is CheckEnrolment for `up`, which a lab survives whose nodes are refused for what was done to its EK CAs and EK certificates: else it
// could never be mended.
func CheckFirstEnrolment(n plan.Node, uuid string, e verify.Enrolment, l EKLab, certificate []byte, requireEKCert bool, note func(text string)) error {
	err := CheckEnrolment(n, uuid, e, requireEKCert, note)
	if err == nil || !requireEKCert {
		return err
	}
	if why := refusedByOrder(l, n, certificate); why != "" {
		note(fmt.Sprintf("refused by the tenant: %s. Keylime says: %s", why, e.Message))
		return nil
	}
	return err
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
			last = "state " + a.Verdict()
		}
		if err == nil && a.Untrusted() {
			return fmt.Errorf("the verifier does not trust %s (%s): state %s", node, uuid, a.Verdict())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the first attestation of %s (%s): %w; the verifier's last answer: %s", node, uuid, context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}
