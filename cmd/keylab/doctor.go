package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/lab"
)

func newDoctor(s streams) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine lacks for a lab, and the command that mends it",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			findings := lab.Doctor(c.Context())
			bad := false
			for _, f := range findings {
				bad = bad || !f.OK && !f.Optional
			}
			if output == "json" {
				if err := writeJSON(s.out, findings); err != nil {
					return err
				}
			} else {
				printFindings(s, findings, bad)
			}
			if bad {
				return quietError{exitFailed}
			}
			return nil
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

func printFindings(s streams, findings []lab.Finding, bad bool) {
	paint := newPalette(s.out)
	for _, f := range findings {
		mark := paint.green("✓")
		switch {
		case f.OK:
		case f.Optional:
			mark = paint.yellow("!")
		default:
			mark = paint.red("✗")
		}
		fmt.Fprintf(s.out, "%s %s: %s\n", mark, f.What, f.Detail)
		if !f.OK && f.Fix != "" {
			fmt.Fprintf(s.out, "    %s\n", f.Fix)
		}
	}
	if bad {
		fmt.Fprintln(s.out, "\nA lab cannot run here yet.")
	} else {
		fmt.Fprintln(s.out, "\nA lab can run here.")
	}
}
