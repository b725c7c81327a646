package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/lab"
)

func newExport(s streams) *cobra.Command {
	var f labFlag
	c := &cobra.Command{
		Use:   "export DIR",
		Short: "Write a lab's logs, configuration, plan and certificates, but no private key, into a folder",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			l, err := f.open(nil)
			if err != nil {
				return err
			}
			if !l.Dir().Exists() {
				return explain(l, lab.ErrNotRunning)
			}
			count, err := l.Export(c.Context(), args[0])
			if err != nil {
				return fmt.Errorf("export lab %q: %w", l.Name(), err)
			}
			fmt.Fprintf(s.err, "%d files of lab %q are in %s.\n", count, l.Name(), args[0])
			return nil
		},
	}
	f.add(c)
	return c
}
