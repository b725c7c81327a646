package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/lab/control"
)

// agentFlags are those of `keylab node replace-agent`.
type agentFlags struct{ kind, path string }

func (f *agentFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.kind, "kind", "", "of replace-agent: the new agent's kind, go or binary")
	c.Flags().StringVar(&f.path, "path", "", "of replace-agent, kind binary: the agent's program")
	_ = c.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(control.AgentKinds, cobra.ShellCompDirectiveNoFileComp))
}

// over puts what was given into an action.
func (f *agentFlags) over(a *control.Action) error {
	a.AgentKind, a.AgentPath = f.kind, f.path
	if f.path == "" {
		return nil
	}
	path, err := filepath.Abs(f.path)
	if err != nil {
		return usageError{err}
	}
	a.AgentPath = path
	return nil
}
