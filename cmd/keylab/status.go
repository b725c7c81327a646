package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
)

func newStatus(s streams) *cobra.Command {
	var f labFlag
	var output string
	c := &cobra.Command{
		Use:               "status [LAB]",
		Short:             "Show a lab's services and nodes",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeLabs,
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			l, err := f.open(args)
			if err != nil {
				return err
			}
			status, err := l.Status(c.Context())
			if errors.Is(err, lab.ErrNotRunning) && l.Dir().Made() && output == "json" {
				status, err = l.Stopped(), nil
			}
			if err != nil {
				return explain(l, err)
			}
			if output == "json" {
				err = writeJSON(s.out, status)
			} else {
				err = printStatus(s, status)
			}
			if err == nil && status.State == control.Degraded {
				return quietError{exitFailed} // the output says what is not well
			}
			return err
		},
	}
	f.add(c)
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

func printStatus(s streams, status lab.Status) error {
	paint := newPalette(s.out)
	fmt.Fprintf(s.out, "Lab %s on %s: %s, up for %s\n\n", status.Lab, status.Substrate, paintState(paint, string(status.State)), time.Since(status.Started).Round(time.Second))
	var rows, details [][]string
	for _, c := range status.Components {
		rows = append(rows, []string{c.Name, c.State, c.Address})
		if c.Detail != "" {
			details = append(details, []string{c.Name, c.Detail, ""})
		}
	}
	if err := table(s.out, "COMPONENT|STATE|ADDRESS", rows); err != nil {
		return err
	}
	fmt.Fprintln(s.out)
	rows = nil
	for _, n := range status.Nodes {
		rows = append(rows, []string{n.Name, n.State, fmt.Sprint(n.AttestationCount), ago(n.LastSuccess), n.Address, orNothing(n.UUID), orNothing(n.EKSerial)})
		if n.Detail != "" || n.Hint != "" {
			details = append(details, []string{n.Name, n.Detail, n.Hint})
		}
	}
	if err := table(s.out, "NODE|STATE|ATTESTATIONS|LAST SUCCESS|ADDRESS|UUID|EK SERIAL", rows); err != nil {
		return err
	}
	for _, d := range details {
		fmt.Fprintf(s.out, "\n%s: %s\n", d[0], d[1])
		if d[2] != "" {
			fmt.Fprintln(s.out, d[2])
		}
	}
	return nil
}

func paintState(p palette, state string) string {
	switch state {
	case string(control.Running):
		return p.green(state)
	case string(control.Degraded):
		return p.red(state)
	}
	return p.yellow(state)
}

func ago(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return time.Since(*t).Round(time.Second).String() + " ago"
}

func newList(s streams) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List your labs",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			labs, err := lab.List(c.Context())
			if err != nil {
				return err
			}
			if output == "json" {
				if labs == nil {
					labs = []lab.Status{}
				}
				return writeJSON(s.out, labs)
			}
			if len(labs) == 0 {
				fmt.Fprintln(s.err, "There are no labs: `keylab up` makes one.")
				return nil
			}
			var rows [][]string
			for _, l := range labs {
				attested := 0
				for _, n := range l.Nodes {
					if n.State == "attested" {
						attested++
					}
				}
				nodes := "-"
				if len(l.Nodes) > 0 {
					nodes = fmt.Sprintf("%d of %d attested", attested, len(l.Nodes))
				}
				rows = append(rows, []string{l.Lab, orNothing(l.Substrate), string(l.State), nodes})
			}
			return table(s.out, "LAB|SUBSTRATE|STATE|NODES", rows)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}
