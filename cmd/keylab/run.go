package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/report"
	"keylab.dev/keylab/report/files"
	"keylab.dev/keylab/scenario"
	"keylab.dev/keylab/scenarios"
)

type runFlags struct {
	lab       string
	all       bool
	topics    []string
	mode      string
	substrate string
	repeat    int
	parallel  int
	seed      uint64
	reportDir string
	noReport  bool
	dryRun    bool
	disarm    bool
	retain    bool
	verbose   bool
}

func newRun(s streams) *cobra.Command {
	f := &runFlags{}
	c := &cobra.Command{
		Use:   "run SCENARIO…",
		Short: "Run experiments: bring a lab up, carry out each step, check what was expected, and report",
		Long: `Runs scenarios: those of the library by their names (` + "`keylab scenario list`" + `), others by their files. Each brings up a lab of its own, carries out its
steps, checks each expectation by the history of all that was observed, takes the lab down, and writes a report.

Exit status: 0 every scenario passed; 1 one did not; 2 wrong usage or an invalid scenario; 130 interrupted, reports are written all the same.`,
		Example: `  keylab run swapped-route
  keylab run my-scenario.yaml --lab demo
  keylab run --all --repeat 3
  keylab run ek-rotation-overlap --dry-run`,
		ValidArgsFunction: completeScenarios,
		RunE:              func(c *cobra.Command, args []string) error { return f.run(c.Context(), s, args) },
	}
	fl := c.Flags()
	fl.StringVarP(&f.lab, "lab", "l", "", "use this running lab, and leave it running")
	fl.BoolVar(&f.all, "all", false, "the whole library")
	fl.StringSliceVar(&f.topics, "topic", nil, "of the library, only these chapters: "+topicNames())
	fl.StringVar(&f.mode, "mode", "", "pull, push, or all that a scenario is for (default: the first that it is for)")
	fl.StringVar(&f.substrate, "substrate", "", "what the labs are built from: netns or kind (default: as the scenario says)")
	fl.IntVar(&f.repeat, "repeat", 1, "run each so often: to find what does not always pass")
	fl.IntVar(&f.parallel, "parallel", 0, "how many labs at once (default: one for each processor, if there is memory for them)")
	fl.Uint64Var(&f.seed, "seed", 1, "seed of the random choices")
	fl.StringVar(&f.reportDir, "report", "keylab-report", "folder for the reports, one folder in it for each run")
	fl.BoolVar(&f.noReport, "no-report", false, "write no reports")
	fl.BoolVar(&f.dryRun, "dry-run", false, "print the steps, and start nothing")
	fl.BoolVar(&f.disarm, "disarm", false, "leave out all that is done or broken: a run passes if its scenario then fails for want of that")
	fl.BoolVar(&f.retain, "retain", false, "leave the lab of a run that did not pass as it is")
	fl.BoolVarP(&f.verbose, "verbose", "v", false, "show what was seen in every step")
	_ = c.RegisterFlagCompletionFunc("lab", completeLabs)
	return c
}

func topicNames() string {
	var names []string
	for _, t := range scenario.Topics {
		names = append(names, string(t))
	}
	return strings.Join(names, ", ")
}

func (f *runFlags) run(ctx context.Context, s streams, args []string) error {
	list, err := f.scenarios(s.in, args)
	if err != nil {
		return err
	}
	jobs, err := f.jobs(list)
	if err != nil {
		return err
	}
	if f.dryRun {
		return printSteps(s.out, jobs)
	}
	if f.lab != "" {
		if len(jobs) > 1 {
			return usagef("%d runs would share the lab %q: name one scenario", len(jobs), f.lab)
		}
		l, err := lab.Open(f.lab)
		if err != nil {
			return err
		}
		if _, err := l.Status(ctx); err != nil {
			return explain(l, err)
		}
		jobs[0].Options.Lab = l
	}
	budget := scenario.DefaultBudget()
	if f.parallel > 0 {
		budget.Labs = f.parallel
	}
	p := newRunPrinter(s, len(jobs), min(budget.Labs, len(jobs)), f.verbose)
	for i := range jobs {
		p.attach(&jobs[i])
	}
	var failed error
	runs := scenario.RunAll(ctx, jobs, budget, p.start, func(j scenario.Job, r report.Run) {
		file := ""
		if !f.noReport {
			var err error
			if file, err = files.WriteRun(filepath.Join(f.reportDir, j.Name()), r); err != nil && failed == nil {
				failed = err
			}
		}
		p.ended(j, r, file)
	})
	if !f.noReport && len(runs) > 1 {
		if err := files.WriteRuns(f.reportDir, runs); err != nil && failed == nil {
			failed = err
		}
	}
	p.summary(runs)
	switch {
	case failed != nil:
		return failed
	case ctx.Err() != nil:
		return quietError{exitInterrupted}
	case slices.ContainsFunc(runs, func(r report.Run) bool { return r.Verdict != report.Passed }):
		return quietError{exitFailed}
	}
	return nil
}

// scenarios are those that the command line names.
func (f *runFlags) scenarios(stdin io.Reader, args []string) ([]scenario.Scenario, error) {
	byLibrary := f.all || len(f.topics) > 0
	switch {
	case byLibrary && len(args) > 0:
		return nil, usagef("--all and --topic run the library: name no scenario beside them")
	case !byLibrary && len(args) == 0:
		return nil, usagef("name a scenario, or give --all: `keylab scenario list` shows the library")
	case byLibrary:
		all, err := scenarios.All()
		if err != nil {
			return nil, err
		}
		for _, t := range f.topics {
			if !slices.Contains(scenario.Topics, scenario.Topic(t)) {
				return nil, usagef("--topic %q is not one of %s", t, topicNames())
			}
		}
		if len(f.topics) > 0 {
			all = slices.DeleteFunc(all, func(s scenario.Scenario) bool { return !slices.Contains(f.topics, string(s.Topic)) })
		}
		return all, nil
	}
	var list []scenario.Scenario
	for _, arg := range args {
		one, err := readScenario(stdin, arg)
		if err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	return list, nil
}

// isFile tells whether an argument names a file, and no scenario of the library.
func isFile(arg string) bool {
	return arg == "-" || strings.ContainsRune(arg, os.PathSeparator) || strings.HasSuffix(arg, ".yaml") || strings.HasSuffix(arg, ".yml")
}

// readScenario reads one of the library by its name, or a file.
func readScenario(stdin io.Reader, arg string) (scenario.Scenario, error) {
	if !isFile(arg) {
		s, err := scenarios.Load(arg)
		if err != nil {
			err = usageError{err}
		}
		return s, err
	}
	name, data, err := readFile(stdin, arg, "scenario")
	if err != nil {
		return scenario.Scenario{}, err
	}
	return scenario.Decode(name, data)
}

// jobs are all runs that were asked for. Of several scenarios, those that are not for the mode or the substrate asked for are left out.
func (f *runFlags) jobs(list []scenario.Scenario) ([]scenario.Job, error) {
	if !slices.Contains([]string{"", "pull", "push", "all"}, f.mode) {
		return nil, usagef("--mode %q is not one of pull, push, all", f.mode)
	}
	if f.substrate != "" && f.substrate != string(spec.SubstrateNetns) && f.substrate != string(spec.SubstrateKind) {
		return nil, usagef("--substrate %q is not one of netns, kind", f.substrate)
	}
	if f.repeat < 1 {
		return nil, usagef("--repeat %d: at least 1", f.repeat)
	}
	var jobs []scenario.Job
	var why error
	for attempt := 1; attempt <= f.repeat; attempt++ {
		for _, s := range list {
			modes := []spec.Mode{spec.Mode(f.mode)}
			switch f.mode {
			case "all":
				modes = s.Modes
			case "":
				modes = s.Modes[:1]
			}
			for _, m := range modes {
				o := scenario.Options{Mode: m, Substrate: spec.Substrate(f.substrate), Seed: f.seed, Disarmed: f.disarm, Retain: f.retain, Version: keylabVersion()}
				if f.seed != 0 {
					o.Seed += uint64(attempt - 1)
				}
				p, err := s.Prepare(o)
				if errors.Is(err, scenario.ErrNotFor) {
					why = err
					continue
				}
				if err != nil {
					return nil, usageError{err}
				}
				o.Substrate = p.Lab.Substrate
				jobs = append(jobs, scenario.Job{Scenario: s, Options: o, Attempt: attempt})
			}
		}
	}
	if len(jobs) == 0 {
		if why == nil {
			return nil, usagef("the library has no scenario of %s", strings.Join(f.topics, ", "))
		}
		return nil, usageError{why}
	}
	return jobs, nil
}

func completeScenarios(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	all, err := scenarios.All()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, s := range all {
		names = append(names, s.Name+"\t"+s.Title)
	}
	return names, cobra.ShellCompDirectiveDefault
}
