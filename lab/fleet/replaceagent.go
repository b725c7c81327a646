package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
)

// AgentReplacer is a substrate that can put another agent on a node.
type AgentReplacer[N any] interface {
	// ReplaceAgent ends a node's agent, and starts an agent of another kind, or another program, in its place: with the TPM, the UUID and the contact address
	// that the node has. It returns when that has registered. ErrNotRegistered: the registrar refuses it, and the node has it all the same. With any other
	// error the node has the agent that it had.
	ReplaceAgent(ctx context.Context, n N, name string, kind spec.AgentKind, path string) error
}

func replaceAgent[N any](ctx context.Context, m Machines[N], n N, a control.Action) (string, error) {
	if err := mustBeOn(ctx, m, n, a.Node); err != nil {
		return "", err
	}
	kind := spec.AgentKind(a.AgentKind)
	is := "its agent is " + agentWords(kind, a.AgentPath)
	if old := m.Planned(n).Agent; old.Kind == a.AgentKind && old.Path == a.AgentPath {
		return is + " already", nil
	}
	err := m.ReplaceAgent(ctx, n, a.Node, kind, a.AgentPath)
	enrol := fmt.Sprintf("`keylab node enrol %s`", a.Node)
	if errors.Is(err, ErrNotRegistered) {
		why, _, _ := strings.Cut(err.Error(), "\n") // the rest is in its log
		return fmt.Sprintf("%s now; %s: %s has it registered and enrolled as it is now", is, why, enrol), nil
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s now, and has registered; the verifier trusts it only if it has the keys of the one before, until %s", is, enrol), nil
}

func agentWords(kind spec.AgentKind, path string) string {
	if kind == spec.AgentBinary {
		return "the program " + path
	}
	return "of the kind " + string(kind)
}

// Runnable tells why a node's agent, if it is a program of this machine, cannot be started.
func Runnable(n plan.Node) error {
	if n.Agent.Kind != string(spec.AgentBinary) {
		return nil
	}
	info, err := os.Stat(n.Agent.Path)
	if err != nil {
		return fmt.Errorf("the agent of %s: %w", n.Name, err)
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("the agent of %s: %s is not an executable file", n.Name, n.Agent.Path)
	}
	return nil
}
