package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/report"
	"keylab.dev/keylab/report/files"
)

func newVerify(s streams) *cobra.Command {
	var f labFlag
	var output, dir string
	var verbose bool
	c := &cobra.Command{
		Use:   "verify [LAB]",
		Short: "Prove what a lab claims; exit status 1 when a check does not hold",
		Long: `Proves five points about a running lab, each by named checks with their evidence:

  1 registration  every agent is registered under its own UUID with its own hostname
  2 ek            each EK certificate is the CA's for that node's TPM, and the tenant enforced it
  3 separation    only the allowed flows cross the router, and there is no way around it
  4 routing       a hostname leads to the agent with that UUID, and to no other
  5 liveness      the verifier keeps attesting every agent`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeLabs,
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkOutput(output, "table", "json", "junit"); err != nil {
				return err
			}
			l, err := f.open(args)
			if err != nil {
				return err
			}
			result, err := l.Verify(c.Context())
			if err != nil {
				return explain(l, err)
			}
			switch output {
			case "json":
				err = report.WriteJSON(s.out, result)
			case "junit":
				err = report.WriteJUnit(s.out, result)
			default:
				err = report.WriteTable(s.out, result, report.TableOptions{Color: colour(s.out), Verbose: verbose})
			}
			if err != nil {
				return fmt.Errorf("write the report: %w", err)
			}
			if dir != "" {
				if err := files.WriteResult(dir, result); err != nil {
					return err
				}
			}
			if !result.Passed() {
				return quietError{exitFailed}
			}
			return nil
		},
	}
	f.add(c)
	c.Flags().StringVarP(&output, "output", "o", "table", "table, json or junit")
	c.Flags().StringVar(&dir, "report", "", "folder for the result as JSON, JUnit and Markdown, beside what is printed")
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "the time of each check too")
	return c
}
