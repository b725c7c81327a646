package tpmsim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// clockPoll is how often AwaitSafeClock looks. A TPM moves its clock on only when it gets a command.
const clockPoll = 50 * time.Millisecond

// AwaitSafeClock returns when TPMS_CLOCK_INFO.safe is YES, and how long that took. After a power cut a TPM cannot know how far
// its clock had got, and says so until the clock has passed the last value that could have been reported, which takes
// about 4 s (TPM 2.0 Library, Part 1, section 36.3). Until then Keylime trusts none of its quotes.
func (t *TPM) AwaitSafeClock(ctx context.Context) (waited time.Duration, err error) {
	c := t.Client()
	defer func() { err = errors.Join(err, c.Close()) }()
	start := time.Now()
	tick := time.NewTicker(clockPoll)
	defer tick.Stop()
	for {
		r, err := tpm2.ReadClock{}.Execute(c)
		if err != nil {
			return time.Since(start), fmt.Errorf("tpmsim: TPM2_ReadClock of %s: %w", label(t.opts), err)
		}
		if r.CurrentTime.ClockInfo.Safe {
			return time.Since(start), nil
		}
		select {
		case <-ctx.Done():
			return time.Since(start), fmt.Errorf("tpmsim: waiting for the clock of %s to be safe again after a power cut: %w", label(t.opts), context.Cause(ctx))
		case <-tick.C:
		}
	}
}
