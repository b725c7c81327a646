package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/scenario"
	"keylab.dev/keylab/scenarios"
)

func newScenario(s streams) *cobra.Command {
	c := &cobra.Command{
		Use:   "scenario",
		Short: "Look at experiments: the library, one of them, or whether a file is one",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(scenarioList(s), scenarioShow(s), scenarioValidate(s), scenarioActions(s), scenarioSchema(s))
	return c
}

func scenarioList(s streams) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:   "list",
		Short: "List the library",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := checkOutput(output, "table", "json"); err != nil {
				return err
			}
			all, err := scenarios.All()
			if err != nil {
				return err
			}
			type row struct {
				Name       string   `json:"name"`
				Title      string   `json:"title"`
				Topic      string   `json:"topic"`
				Modes      []string `json:"modes"`
				Substrates []string `json:"substrates"`
			}
			list := []row{}
			var rows [][]string
			for _, one := range all {
				r := row{Name: one.Name, Title: one.Title, Topic: string(one.Topic)}
				for _, m := range one.Modes {
					r.Modes = append(r.Modes, string(m))
				}
				for _, m := range one.Substrates {
					r.Substrates = append(r.Substrates, string(m))
				}
				list = append(list, r)
				rows = append(rows, []string{r.Topic, r.Name, strings.Join(r.Modes, ","), strings.Join(r.Substrates, ","), r.Title})
			}
			if output == "json" {
				return writeJSON(s.out, list)
			}
			return table(s.out, "TOPIC|NAME|MODES|SUBSTRATES|TITLE", rows)
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "table", "form: table or json")
	return c
}

func scenarioShow(s streams) *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Print a scenario of the library: a start for one of your own",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeScenarios,
		RunE: func(_ *cobra.Command, args []string) error {
			data, err := scenarios.Source(args[0])
			if err != nil {
				return usageError{err}
			}
			_, err = s.out.Write(data)
			return err
		},
	}
}

func scenarioValidate(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE…",
		Short: "Check scenarios; every problem is reported, with its place",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			for _, arg := range args {
				one, err := readScenario(s.in, arg)
				if err != nil {
					return err
				}
				fmt.Fprintf(s.err, "%s is valid: scenario %q, %s.\n", arg, one.Name, count(len(one.Steps), "step"))
			}
			return nil
		},
	}
}

func scenarioActions(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "actions",
		Short: "List all that a step can do (do) or break (fault, mend)",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var rows [][]string
			for _, v := range scenario.Vocabulary() {
				rows = append(rows, []string{v.Step, v.Name, orNothing(v.Needs), orNothing(strings.Join(v.Options, ", ")), v.About})
			}
			return table(s.out, "STEP|NAME|NEEDS|OPTIONS|WHAT IT DOES", rows)
		},
	}
}

func scenarioSchema(s streams) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of a scenario's file",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := s.out.Write(scenario.Schema())
			return err
		},
	}
}
