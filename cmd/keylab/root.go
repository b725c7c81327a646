package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
)

// Exit statuses, which the README documents.
const (
	exitOK     = 0
	exitFailed = 1 // something failed, or a check did not hold
	exitUsage  = 2 // the command line or the specification is wrong
	// exitInterrupted is what a shell makes of an interrupt, too.
	exitInterrupted = 130
)

// streams are a command's input and outputs: results go to out, progress, logs and errors to err.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// terminal tells whether a writer is one, so that colours and redrawn lines make sense.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// terminal tells whether standard input and output are both one, so that a program can be used by hand.
func (s streams) terminal() bool {
	in, ok := s.in.(*os.File)
	return ok && term.IsTerminal(int(in.Fd())) && terminal(s.out)
}

// colour tells whether to write colours to w (https://no-color.org).
func colour(w io.Writer) bool { return terminal(w) && os.Getenv("NO_COLOR") == "" }

// usageError marks an error as the user's: exit status 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// quietError is a failure that has been printed already.
type quietError struct{ status int }

func (e quietError) Error() string { return fmt.Sprintf("exit status %d", e.status) }

// commandStatus is the exit status of a command that ran in the lab, which has said itself what was wrong.
type commandStatus struct{ status int }

func (e commandStatus) Error() string { return fmt.Sprintf("exit status %d", e.status) }

// run is the whole command line: it returns the exit status.
func run(ctx context.Context, s streams, args []string) int {
	root := newRoot(s)
	root.SetArgs(args)
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var quiet quietError
	var invalid *spec.InvalidError
	var command commandStatus
	switch {
	case errors.As(err, &quiet):
		return quiet.status
	case errors.As(err, &command):
		return command.status
	case errors.As(err, &invalid):
		fmt.Fprintln(s.err, invalid)
		return exitUsage
	}
	fmt.Fprintf(s.err, "keylab: %v\n", err)
	var usage usageError
	if errors.As(err, &usage) || isCobraUsage(err) {
		return exitUsage
	}
	return exitFailed
}

// isCobraUsage recognises cobra's own errors about commands and arguments, which have no type.
func isCobraUsage(err error) bool {
	for _, start := range []string{"unknown command", "accepts ", "requires ", "required flag", "invalid argument"} {
		if strings.HasPrefix(err.Error(), start) {
			return true
		}
	}
	return false
}

func newRoot(s streams) *cobra.Command {
	root := &cobra.Command{
		Use:   "keylab",
		Short: "A whole Keylime remote-attestation lab on one machine",
		Long: `keylab builds a Keylime lab on one machine: nodes, each with its own simulated TPM and its own CA-issued EK
certificate, the real Keylime registrar, verifier and tenant on another network, a router between them, and an ingress
that brings the verifier's request to the agent whose UUID it names. Then it proves that all of this is so.

  keylab up            bring up a lab of three nodes
  keylab verify        prove what the lab claims
  keylab status        show it
  keylab down          take it down (wipe also deletes its TPMs and keys)

Exit status: 0 done; 1 something failed or a check did not hold; 2 wrong usage or an invalid specification.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (see `%s --help`)", err, c.CommandPath())}
	})
	for _, verb := range []func(streams) *cobra.Command{
		newUp, newVerify, newStatus, newList, newDown, newWipe,
		newExec, newShell, newTPM, newTenant, newEK, newNet, newGraph, newLogs, newEvents, newNode, newIMA, newBoot, newFault, newRun, newScenario,
		newKubeconfig, newKubectl, newManifests, newImages, newExport, newValidate, newSchema, newDoctor, newVersion,
	} {
		root.AddCommand(verb(s))
	}
	return root
}

// envLab names the lab that verbs mean when none is given.
const envLab = "KEYLAB_LAB"

// labFlag is the flag by which verbs name a lab.
type labFlag struct {
	name  string
	exact bool // do not guess
}

func (f *labFlag) add(c *cobra.Command) {
	c.Flags().StringVarP(&f.name, "lab", "l", "", "the lab's name (default $"+envLab+", or keylab)")
	_ = c.RegisterFlagCompletionFunc("lab", completeLabs)
}

// open names the lab: by an argument, by the flag, by the environment, or the default one.
func (f *labFlag) open(args []string) (*lab.Lab, error) {
	name := f.name
	switch {
	case len(args) > 0 && name != "" && args[0] != name:
		return nil, usagef("two labs are named: %q and --lab %q", args[0], name)
	case len(args) > 0:
		name = args[0]
	case name == "":
		name = os.Getenv(envLab)
	}
	if name == "" {
		name = f.onlyLab()
	}
	if err := (spec.Spec{Name: name}).Validate(); err != nil {
		return nil, err
	}
	return lab.Open(name)
}

// onlyLab is the name of the lab that is meant when none is named: the default one or, where there is just one other, that.
// Verbs that end or delete a lab never guess.
func (f *labFlag) onlyLab() string {
	name := spec.Default().Name
	if f.exact {
		return name
	}
	dirs, err := state.List()
	made := slices.DeleteFunc(dirs, func(d state.Dir) bool { return !d.Made() })
	if err == nil && len(made) == 1 {
		return made[0].Lab
	}
	return name
}

// explain adds to an error about a lab what the user can do.
func explain(l *lab.Lab, err error) error {
	if errors.Is(err, lab.ErrNotRunning) {
		if l.Dir().Made() {
			return fmt.Errorf("lab %q is not running: `keylab up` with the same name starts it again", l.Name())
		}
		if l.Dir().Exists() {
			return fmt.Errorf("lab %q did not come up the last time: `keylab logs -l %s` shows why, `keylab up` tries again", l.Name(), l.Name())
		}
		return fmt.Errorf("there is no lab %q: `keylab list` shows the labs, `keylab up` makes one", l.Name())
	}
	return err
}

func completeLabs(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	labs, err := lab.List(c.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	for _, l := range labs {
		names = append(names, l.Lab)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeNodes offers the running lab's nodes for a first argument.
func completeNodes(f *labFlag) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		l, err := f.open(nil)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		status, err := l.Status(c.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, n := range status.Nodes {
			names = append(names, n.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
