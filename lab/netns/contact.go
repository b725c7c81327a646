package netns

import (
	"context"

	"keylab.dev/keylab/lab/fleet"
)

func (m machines) Asked() bool { return !m.s.plan.Keylime.Push() }

func (m machines) Rename(ctx context.Context, n *node) (string, error) {
	if err := n.stopAgent(ctx); err != nil {
		return "", err
	}
	if err := fleet.CountRename(m.s.dir, n.Node); err != nil {
		return "", err
	}
	uuid, _ := n.identityNow()
	hostname, err := fleet.Hostname(m.s.dir, n.Node, uuid, m.s.plan.Domain)
	if err != nil {
		return "", err
	}
	n.unroute()
	n.mu.Lock()
	n.hostname = hostname
	n.mu.Unlock()
	return hostname, n.startAgent(ctx)
}
