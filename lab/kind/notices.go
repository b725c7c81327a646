package kind

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"time"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/cluster/agentpod"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/kind/noticerole"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/manifests"
)

// receiveNotices makes the tenant's container, which must see the authority's folder, the receiver of what the verifier posts to a webhook; false: the
// verifier posts nothing.
func (l *Lab) receiveNotices(p *part) (bool, error) {
	r := l.planned.Keylime.Revocation
	if r == nil || r.Webhook == nil {
		return false, nil
	}
	p.config.Entrypoint = []string{keylabPath, "in-container", "notices", configPath}
	return true, p.writeConfig(l, noticerole.Config{
		Lab: l.planned.Lab, PKI: l.dir.PKI(), Listen: *r.Webhook, Notifier: filepath.Join(l.dir.Revocation(), agent.NotifierCertificate),
	})
}

// Notices implements the lab's side of `keylab events`: what came to the receiver, and what the nodes' agents have noted, of nodes that run.
func (l *Lab) Notices(ctx context.Context) ([]control.Notice, error) {
	if err := l.mustBeUp(); err != nil {
		return nil, err
	}
	r := l.planned.Keylime.Revocation
	if r == nil {
		return nil, fleet.ErrNoNotices
	}
	list := []control.Notice{}
	if r.Webhook != nil {
		told, err := noticerole.Notices(ctx, l.dialControl(plan.Tenant))
		if err != nil {
			return nil, fmt.Errorf("ask the receiver of notices: %w", err)
		}
		list = append(list, told...)
	}
	for _, n := range l.planned.Nodes {
		if !r.Agent || n.Agent.Kind != string(spec.AgentGo) {
			continue
		}
		on, err := machines{l}.Running(ctx, n)
		if err != nil {
			return nil, err
		}
		if !on {
			continue
		}
		told, err := l.toldAgent(ctx, n)
		if err != nil {
			return nil, err
		}
		list = append(list, told...)
	}
	for i := range list {
		list[i].Node = l.nodeOf(list[i].Agent)
	}
	slices.SortStableFunc(list, func(a, b control.Notice) int { return a.Received.Compare(b.Received) })
	return list, nil
}

// toldAgent is what a node's agent was told, by its own notes.
func (l *Lab) toldAgent(ctx context.Context, n plan.Node) ([]control.Notice, error) {
	file := path.Join(manifests.AgentDataDir, agentpod.NoticesFile)
	text, err := l.execOutput(ctx, n.KubernetesName, "sh", "-c", "test ! -e "+file+" || cat "+file)
	if err != nil {
		return nil, err
	}
	told, err := agentpod.ReadNotices([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("what the agent of %s was told: %w", n.Name, err)
	}
	var list []control.Notice
	for _, t := range told {
		r := agent.Revocation{Message: t.Message, Number: t.Number, Problem: problem(t.Problem)}
		notice := fleet.Notice(n.Name, t.Received.In(time.Local), r)
		var runs []agent.ActionRun
		for _, a := range t.Actions {
			runs = append(runs, agent.ActionRun{Action: a.Name, Problem: problem(a.Problem)})
		}
		notice.Actions = fleet.Actions(runs)
		list = append(list, notice)
	}
	return list, nil
}

// problem is one that was noted; "" for none.
func problem(text string) error {
	if text == "" {
		return nil
	}
	return errors.New(text)
}

// nodeOf is the node that has, or had, an agent of this UUID; "" for none.
func (l *Lab) nodeOf(uuid string) string {
	for name, n := range l.known().Nodes {
		if uuid != "" && (n.UUID == uuid || slices.Contains(n.Former, uuid)) {
			return name
		}
	}
	return ""
}
