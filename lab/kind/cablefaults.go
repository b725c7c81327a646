package kind

import (
	"context"
	"fmt"
	"strings"
)

// delay holds packets up by the kernel's netem (tc-netem(8)), which can only do so for those that go out: so twice the time, which comes to the same for
// whoever waits for an answer.
func (l *Lab) delay(ctx context.Context, f fault) error {
	microseconds := func(option string) string { return fmt.Sprintf("%dus", 2*f.Duration(option).Microseconds()) }
	_, err := l.execOutput(ctx, f.On[0].KubernetesName, "tc", "qdisc", "replace", "dev", "eth0", "root", "netem", "delay", microseconds("delay"), microseconds("jitter"))
	if err != nil && strings.Contains(err.Error(), "qdisc kind is unknown") {
		return fmt.Errorf("this machine's kernel cannot hold packets up: load its module sch_netem (`modprobe sch_netem`), or use the substrate netns: %w", err)
	}
	return err
}

func (l *Lab) undelay(ctx context.Context, f fault) error {
	// "replace" by what a link has by default: to delete what is not there would be an error.
	if _, err := l.execOutput(ctx, f.On[0].KubernetesName, "tc", "qdisc", "replace", "dev", "eth0", "root", "noqueue"); err != nil {
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
