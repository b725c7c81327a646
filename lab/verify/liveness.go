package verify

import (
	"context"
	"fmt"
	"time"
)

// liveness proves point 5: the verifier goes on attesting every agent.
func (v *verification) liveness() []check {
	return v.perNode("attested", pointLiveness, v.attested)
}

// attested waits until the verifier has counted one more successful attestation than at first.
func (v *verification) attested(ctx context.Context, n Node) (string, error) {
	if n.Fault != "" {
		return "", fmt.Errorf("%s", n.Fault)
	}
	first, err := v.target.Verifier().Agent(ctx, n.UUID)
	if err != nil {
		return "", fmt.Errorf("ask the verifier for agent %s: %w", n.UUID, err)
	}
	start := time.Now()
	deadline := time.NewTimer(v.options.Liveness)
	defer deadline.Stop()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	last := first
	for {
		if last.AttestationCount > first.AttestationCount {
			return fmt.Sprintf("attestation_count %d → %d in %.1f s", first.AttestationCount, last.AttestationCount, time.Since(start).Seconds()), nil
		}
		// An agent of the push model that is only overdue is trusted again with its next evidence.
		if last.Untrusted() && !last.Overdue() {
			return "", fmt.Errorf("the verifier has given this agent up: state %s", last.Verdict())
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("waiting for the verifier's next attestation: %w", ctx.Err())
		case <-deadline.C:
			return "", fmt.Errorf("attestation_count stayed at %d for %s: state %s", first.AttestationCount, v.options.Liveness, last.Verdict())
		case <-tick.C:
		}
		if last, err = v.target.Verifier().Agent(ctx, n.UUID); err != nil {
			return "", fmt.Errorf("ask the verifier for agent %s: %w", n.UUID, err)
		}
	}
}
