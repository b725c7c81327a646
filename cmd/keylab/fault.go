package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/lab/control"
)

func newFault(s streams) *cobra.Command {
	var f labFlag
	var fault control.Fault
	c := &cobra.Command{
		Use:   "fault KIND [NODE…]",
		Short: "Break one thing in a running lab on purpose, or mend it",
		Long: `Breaks one thing in a running lab, so that you see verify and Keylime find it:

` + describeFaults() + `
With --clear the same thing is mended. Not every lab can do all of it: where the substrate or the push model has no such
thing to break, keylab says so.`,
		Example: `  keylab fault swapped-route node-1 node-2
  keylab verify
  keylab fault swapped-route node-1 node-2 --clear
  keylab fault service-down --component registrar`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeFault(&f),
		RunE: func(c *cobra.Command, args []string) error {
			fault.Kind, fault.Nodes = args[0], args[1:]
			if err := fault.Check(); err != nil {
				return usageError{err}
			}
			l, err := f.open(nil)
			if err != nil {
				return err
			}
			done, err := l.Fault(c.Context(), fault)
			if err != nil {
				return explain(l, err)
			}
			fmt.Fprintf(s.err, "%s: %s.\n", args[0], done)
			return nil
		},
	}
	f.add(c)
	c.Flags().BoolVar(&fault.Clear, "clear", false, "mend it")
	c.Flags().BoolVar(&fault.Leave, "leave", false, "with --clear: tell the verifier nothing, so that nodes which it gave up stay so")
	c.Flags().StringVar(&fault.Component, "component", "", "which service it is about: registrar or verifier")
	c.Flags().StringToStringVar(&fault.Options, "set", nil, "an option of the fault, as name=value")
	_ = c.RegisterFlagCompletionFunc("component", func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return components(args), cobra.ShellCompDirectiveNoFileComp
	})
	_ = c.RegisterFlagCompletionFunc("set", func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		return options(args), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
	return c
}

// describeFaults is a line for each kind of fault, and one for each of its options.
func describeFaults() string {
	var b strings.Builder
	for _, k := range control.Faults {
		name := k.Kind
		switch {
		case k.Nodes == 1:
			name += " NODE"
		case k.Nodes == 2:
			name += " A B"
		case len(k.Components) > 0:
			name += " (--component)"
		}
		fmt.Fprintf(&b, "  %-31s %s\n", name, k.About)
		for _, o := range k.Options {
			text := o.About
			if o.Default != "" {
				text += " (default " + o.Default + ")"
			}
			fmt.Fprintf(&b, "  %-31s %s\n", "  --set "+o.Name+"=…", text)
		}
	}
	return b.String()
}

// completeFault offers the kinds, and then the lab's nodes, each once.
func completeFault(f *labFlag) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return control.FaultNames(), cobra.ShellCompDirectiveNoFileComp
		}
		if kind, ok := control.FaultKindOf(args[0]); !ok || len(args) > kind.Nodes {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names, directive := completeNodes(f)(c, nil, "")
		return slices.DeleteFunc(names, func(n string) bool { return slices.Contains(args[1:], n) }), directive
	}
}

// components are those that the fault named by the first argument may be about; without one, those of all faults.
func components(args []string) []string {
	var list []string
	for _, k := range control.Faults {
		if len(args) == 0 || args[0] == k.Kind {
			list = append(list, k.Components...)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// options are those of the fault named by the first argument, ready for a value.
func options(args []string) []string {
	var list []string
	for _, k := range control.Faults {
		for _, o := range k.Options {
			if len(args) > 0 && args[0] == k.Kind {
				list = append(list, o.Name+"=")
			}
		}
	}
	return list
}
