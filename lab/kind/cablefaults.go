package kind

import (
	"context"
	"fmt"
	"strings"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/kind/netroles"
	"keylab.dev/keylab/lab/plan"
)

// lateLog is where the program on a node that holds its packets up says that it does, or why it cannot; latePID has its process.
const (
	lateLog = "/run/keylab-late.log"
	latePID = "/run/keylab-late.pid"
)

// delay holds up what comes in to the node, and so for twice the time, which comes to the same for whoever waits for an answer. The kernel's own netem could
// do it for what goes out, but many kernels lack it.
func (l *Lab) delay(ctx context.Context, f fault) error {
	n := f.On[0]
	if err := l.letIn(ctx, n); err != nil {
		return err
	}
	const start = `rm -f "$1"; setsid "$0" in-container late eth0 "$3" "$4" >"$1" 2>&1 & echo $! >"$2"`
	_, err := l.execOutput(ctx, n.KubernetesName, "sh", "-c", start, keylabPath, lateLog, latePID, (2 * f.Duration("delay")).String(), (2 * f.Duration("jitter")).String())
	if err != nil {
		return err
	}
	return fleet.Await(ctx, "the packets of "+n.Name+" to be held up", func(ctx context.Context) (string, error) {
		said, err := l.execOutput(ctx, n.KubernetesName, "sh", "-c", `cat "$0"; kill -0 "$(cat "$1")" || echo "it has ended"`, lateLog, latePID)
		switch {
		case err != nil:
			return "", err
		case strings.TrimSpace(said) == netroles.HoldsUp:
			return "", nil
		case strings.Contains(said, "it has ended"):
			return "", fleet.Hopeless(fmt.Errorf("hold up the packets of %s:\n%s", n.Name, indent(said)))
		}
		return "it says " + strings.TrimSpace(said), nil
	})
}

// letIn ends the program that holds up a node's packets, and what it left if it was killed; it is no error when none does.
func (l *Lab) letIn(ctx context.Context, n plan.Node) error {
	_, err := l.execOutput(ctx, n.KubernetesName, "sh", "-c", `if [ -e "$1" ]; then kill -9 "$(cat "$1")" || true; rm "$1"; fi; "$0" in-container let-in`, keylabPath, latePID)
	return err
}

func (l *Lab) undelay(ctx context.Context, f fault) error {
	if err := l.letIn(ctx, f.On[0]); err != nil {
		return err
	}
	if err := l.awaitRoute(ctx, f.On[0], f.On[0]); err != nil {
		return err
	}
	return l.askAgain(ctx, f, f.On)
}

// lossTable is the node's own table that drops packets at random.
const lossTable = "keylab-loss"

// lose drops by nftables, which can do both directions, and needs no module that a node has not anyway.
func (l *Lab) lose(ctx context.Context, f fault) error {
	const parts = 10_000
	t := lossTable
	rules := fmt.Sprintf("add table inet %s; delete table inet %s; add table inet %s", t, t, t)
	for hook, link := range map[string]string{"prerouting": "iifname", "postrouting": "oifname"} {
		rules += fmt.Sprintf("; add chain inet %s %s { type filter hook %s priority -500; }; add rule inet %s %s meta %s eth0 numgen random mod %d < %d drop",
			t, hook, hook, t, hook, link, parts, int(f.Percent("percent")*parts/100))
	}
	_, err := l.execOutput(ctx, f.On[0].KubernetesName, "nft", rules)
	return err
}

func (l *Lab) unlose(ctx context.Context, f fault) error {
	if _, err := l.execOutput(ctx, f.On[0].KubernetesName, "nft", "add table inet "+lossTable+"; delete table inet "+lossTable); err != nil {
		return err
	}
	if err := l.awaitRoute(ctx, f.On[0], f.On[0]); err != nil {
		return err
	}
	return l.askAgain(ctx, f, f.On)
}
