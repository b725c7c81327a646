package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/state"
)

func newDown(s streams) *cobra.Command {
	f := labFlag{exact: true}
	var all bool
	c := &cobra.Command{
		Use:   "down [LAB]",
		Short: "Take a lab down; its TPMs, CA and keys stay on disk for the next up",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return forLabs(c, &f, all, args, func(l *lab.Lab) error {
				was, err := l.Down(c.Context())
				if err != nil {
					return fmt.Errorf("take lab %q down: %w", l.Name(), err)
				}
				if was {
					fmt.Fprintf(s.err, "Lab %q is down; its state is kept in %s.\n", l.Name(), l.Dir().Path)
				} else {
					fmt.Fprintf(s.err, "Lab %q is not running: nothing to do.\n", l.Name())
				}
				return nil
			})
		},
		ValidArgsFunction: completeLabs,
	}
	f.add(c)
	c.Flags().BoolVar(&all, "all", false, "all your labs")
	return c
}

func newWipe(s streams) *cobra.Command {
	f := labFlag{exact: true}
	var all bool
	c := &cobra.Command{
		Use:   "wipe [LAB]",
		Short: "Take a lab down and delete its TPMs, CA, keys and logs",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return forLabs(c, &f, all, args, func(l *lab.Lab) error {
				existed, err := l.Wipe(c.Context())
				if err != nil {
					return fmt.Errorf("wipe lab %q: %w", l.Name(), err)
				}
				if existed {
					fmt.Fprintf(s.err, "Lab %q is gone.\n", l.Name())
				} else {
					fmt.Fprintf(s.err, "There is no lab %q: nothing to do.\n", l.Name())
				}
				return nil
			})
		},
		ValidArgsFunction: completeLabs,
	}
	f.add(c)
	c.Flags().BoolVar(&all, "all", false, "all your labs")
	return c
}

// forLabs does something to the lab that the command line names, or to all of them.
func forLabs(c *cobra.Command, f *labFlag, all bool, args []string, do func(*lab.Lab) error) error {
	if !all {
		l, err := f.open(args)
		if err != nil {
			return err
		}
		return do(l)
	}
	if len(args) > 0 || f.name != "" {
		return usagef("--all and a lab's name exclude one another")
	}
	dirs, err := state.List() // those too that left nothing but logs
	if err != nil {
		return err
	}
	for _, d := range dirs {
		l, err := lab.Open(d.Lab)
		if err != nil {
			return err
		}
		if err := do(l); err != nil {
			return err
		}
	}
	return nil
}
