package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/lab/rotate"
	"keylab.dev/keylab/report"
)

func newEKRotate(s streams, f *labFlag) *cobra.Command {
	var o rotate.Options
	var strategy, output string
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Bring a running lab from one EK CA to another, and print every command that an operator would run",
		Long: `Brings a running lab from one EK CA to another, and prints the runbook: each command that an operator would run against a real Keylime, with what came
of it here and how long it took. The strategies:

  overlap    trust the new CA beside the old one; node by node: a new certificate, registered and enrolled anew; distrust the old one when all are over
  at-once    trust the new CA instead of the old one, and then do the same with all nodes at once
  emergency  the old CA's key is in the wrong hands: distrust it first, have the verifier forget all nodes, and then build the trust up again

A node whose certificate no CA's record holds, or that was revoked, gets no new one: verifier and registrar are told to forget it. At the end come how long each node
went without a good attestation, the enrolments that were refused, and the proof: the checks of verify that are about registration, EK certificates and liveness.
Exit status 1 when they do not hold.

Interrupted, the lab is left as it is at that moment, and another rotate goes on from there.`,
		Example: `  keylab ek rotate --dry-run > runbook.sh
  keylab ek rotate --strategy overlap --pause 5s
  keylab ek leak ca-1 && keylab ek rotate --strategy emergency --output json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			if !slices.Contains(rotate.Strategies, rotate.Strategy(strategy)) {
				return usagef("--strategy %q is none of %s, %s, %s", strategy, rotate.Overlap, rotate.AtOnce, rotate.Emergency)
			}
			l, err := f.open(nil)
			if err != nil {
				return err
			}
			o.Strategy = rotate.Strategy(strategy)
			paint := newPalette(s.out)
			if output == "table" {
				o.OnCommand = func(c rotate.Command) { printCommand(s.out, paint, c) }
			}
			result, err := rotate.Run(c.Context(), l, o)
			if output == "json" && result.To != "" {
				if err := writeJSON(s.out, result); err != nil {
					return err
				}
			} else if err == nil {
				err = printRotation(s, result)
			}
			if err != nil {
				if len(result.Commands) > 0 && !o.DryRun {
					fmt.Fprintln(s.err, "The rotation did not come to its end; another `keylab ek rotate` goes on from here.")
				}
				return explain(l, err)
			}
			if !o.DryRun && !result.Passed() {
				return quietError{exitFailed}
			}
			return nil
		},
	}
	c.Flags().StringVar(&strategy, "strategy", string(rotate.Overlap), "overlap, at-once or emergency")
	c.Flags().StringVar(&o.To, "to", "", "the CA to go to; it is made unless it is there (default: one that was made and never used, or a new one)")
	c.Flags().StringVar(&o.Algorithm, "algorithm", "", "of the keys of a CA that is made: rsa2048, rsa3072, ecc-p256 or ecc-p384 (default: as the first CA's)")
	c.Flags().DurationVar(&o.Pause, "pause", 0, "overlap: wait so long between two nodes")
	c.Flags().IntVar(&o.Parallel, "parallel", 0, "at-once, emergency: so many nodes at the same time (default: 4 on namespaces, 1 on Kubernetes)")
	c.Flags().BoolVar(&o.DryRun, "dry-run", false, "print the runbook, and do nothing")
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

// printCommand prints one command of the runbook as a part of a script, in which all else is comment.
func printCommand(w io.Writer, paint palette, c rotate.Command) {
	fmt.Fprintf(w, "# %d. %s: %s\n", c.Number, c.Where, c.What)
	for _, line := range c.Run {
		fmt.Fprintln(w, line)
	}
	switch c.Status {
	case rotate.Done:
		fmt.Fprintf(w, "#    %s %.2f s  %s\n", paint.green("✓"), c.Duration.Seconds(), c.Did)
	case rotate.Failed:
		fmt.Fprintf(w, "#    %s %.2f s  %s\n", paint.red("✗"), c.Duration.Seconds(), strings.ReplaceAll(c.Error, "\n", "\n#      "))
	}
	fmt.Fprintln(w)
}

// printRotation prints what came of a rotation, as comments of the script.
func printRotation(s streams, r rotate.Result) error {
	out := &bytes.Buffer{}
	if err := writeRotation(s, out, r); err != nil {
		return err
	}
	for line := range strings.Lines(out.String()) {
		if _, err := fmt.Fprintln(s.out, strings.TrimRight("# "+line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

func writeRotation(s streams, out io.Writer, r rotate.Result) error {
	switch {
	case r.ProofDue && r.DryRun:
		fmt.Fprintf(out, "Lab %s is on %s, which was not proved yet: that alone is to be done.\n", r.Lab, r.To)
	case r.ProofDue:
		fmt.Fprintf(out, "Lab %s was on %s already, which was not proved yet. That was made up for, in %.1f s.\n", r.Lab, r.To, r.Duration.Seconds())
	case r.DryRun:
		fmt.Fprintf(out, "This was the plan for lab %s, from %s to %s; nothing was done.\n", r.Lab, orNothing(strings.Join(r.From, ", ")), r.To)
	default:
		fmt.Fprintf(out, "Lab %s went from %s to %s in %.1f s.\n", r.Lab, orNothing(strings.Join(r.From, ", ")), r.To, r.Duration.Seconds())
	}
	for _, l := range r.LeftOut {
		fmt.Fprintf(out, "Left out: %s: %s.\n", l.Node, l.Why)
	}
	for _, x := range r.Refused {
		fmt.Fprintf(out, "Refused by the %s: %s: %s\n", x.By, x.Node, x.Message)
	}
	if r.DryRun {
		return nil
	}
	fmt.Fprintln(out)
	var rows [][]string
	for _, g := range r.Gaps {
		rows = append(rows, []string{g.Node, fmt.Sprintf("%.1f s", g.Longest.Seconds()), fmt.Sprintf("%.1f s", g.At.Seconds()), fmt.Sprint(g.Count), fmt.Sprint(g.Refusals)})
	}
	if err := table(out, "NODE|LONGEST TIME WITHOUT AN ATTESTATION|FROM|ATTESTATIONS|REFUSALS", rows); err != nil {
		return err
	}
	fmt.Fprintln(out)
	return report.WriteTable(out, r.Proof, report.TableOptions{Color: colour(s.out)})
}
