package fleet

import (
	"context"
	"fmt"
	"path/filepath"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// Renamer gives a substrate's agents other contact addresses.
type Renamer[N any] interface {
	// Rename gives a node's agent another contact address, starts it again and returns when it has registered with that. The name that it had leads nowhere
	// any more.
	Rename(ctx context.Context, n N) (hostname string, err error)
	// Asked tells whether the verifier connects to agents.
	Asked() bool
}

func changeContact[N any](ctx context.Context, m Machines[N], n N, a control.Action) (string, error) {
	if err := mustBeOn(ctx, m, n, a.Node); err != nil {
		return "", err
	}
	hostname, err := m.Rename(ctx, n)
	if err != nil {
		return "", err
	}
	done := fmt.Sprintf("its agent has registered with the contact address %s", hostname)
	if m.Asked() {
		done += fmt.Sprintf("; the verifier goes on asking at the one that it had, until `keylab node enrol %s` tells it of the new one", a.Node)
	}
	return done, nil
}

// Hostname is the contact address of a node's agent: what follows from its UUID, below the name that it was given since, if it was.
func Hostname(dir state.Dir, n plan.Node, uuid, domain string) (string, error) {
	count, err := renames(dir, n)
	if err != nil {
		return "", err
	}
	hostname := plan.ContactHostname(uuid, domain)
	if count > 0 {
		hostname = fmt.Sprintf("renamed-%d.%s", count, hostname)
	}
	return hostname, nil
}

// CountRename gives a node's agent another name. It is a part of the agent's configuration, and so on its disk.
func CountRename(dir state.Dir, n plan.Node) error {
	count, err := renames(dir, n)
	if err != nil {
		return err
	}
	return writeCount(renamesFile(dir, n), count+1)
}

func renamesFile(dir state.Dir, n plan.Node) string {
	return filepath.Join(dir.Agent(n.Name), "renamed")
}

func renames(dir state.Dir, n plan.Node) (int, error) {
	return readCount(renamesFile(dir, n), "how often the agent of "+n.Name+" was renamed")
}
