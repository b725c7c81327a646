package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/lab/control"
)

func newEvents(s streams) *cobra.Command {
	var f labFlag
	var output string
	c := &cobra.Command{
		Use:   "events [LAB]",
		Short: "Show what a running lab's verifier told of agents that it no longer trusts",
		Long: `Shows the revocation events of a running lab's verifier, as they came to the lab's receiver (keylime.revocation.webhook in the
specification) and to the agents built into keylab (keylime.revocation.agent), whether the signature is the verifier's, and how the
actions ended that such an agent ran therefore (keylime.revocation.actions).`,
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
			list, err := l.Notices(c.Context())
			if err != nil {
				return explain(l, err)
			}
			if output == "json" {
				return writeJSON(s.out, list)
			}
			return printNotices(s, list)
		},
	}
	f.add(c)
	c.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return c
}

func printNotices(s streams, list []control.Notice) error {
	if len(list) == 0 {
		fmt.Fprintln(s.err, "The verifier has told nothing.")
		return nil
	}
	var rows [][]string
	for _, n := range list {
		about, signature := n.Node, "right"
		if about == "" {
			about = n.Agent
		}
		if !n.Signed {
			signature = n.Problem
		}
		rows = append(rows, []string{
			n.Received.Format(time.DateTime), n.Receiver, orNothing(about), orNothing(n.Type), orNothing(n.Event), orNothing(n.Severity), signature, actions(n),
		})
	}
	return table(s.out, "RECEIVED|BY|ABOUT|TYPE|EVENT|SEVERITY|SIGNATURE|ACTIONS", rows)
}

// actions says how the actions ended that an agent ran because of a notice.
func actions(n control.Notice) string {
	var words []string
	for _, a := range n.Actions {
		word := a.Name + " ended well"
		if !a.OK {
			first, _, _ := strings.Cut(a.Problem, "\n")
			word = a.Name + " failed: " + first
		}
		words = append(words, word)
	}
	return orNothing(strings.Join(words, ", "))
}
