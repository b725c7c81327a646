package netroles

import (
	"context"
	"fmt"
	"io"
	"time"

	"keylab.dev/keylab/netlab"
)

// HoldsUp is what RunLate writes when packets are held up.
const HoldsUp = "packets are held up"

// RunLate holds up what comes in by a link of the host that it runs on, until ctx ends. Its arguments are the link, the delay and the jitter, both as
// time.ParseDuration reads them.
func RunLate(ctx context.Context, args []string, said io.Writer) error {
	if len(args) != 3 {
		return fmt.Errorf("needs a link, a delay and a jitter, not %d arguments", len(args))
	}
	delay, err := time.ParseDuration(args[1])
	if err != nil {
		return fmt.Errorf("the delay: %w", err)
	}
	jitter, err := time.ParseDuration(args[2])
	if err != nil {
		return fmt.Errorf("the jitter: %w", err)
	}
	return netlab.HoldUp(ctx, args[0], delay, jitter, func() { fmt.Fprintln(said, HoldsUp) })
}
