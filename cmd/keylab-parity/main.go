// Command keylab-parity compares keylab's own agent with a real one, in one lab, and prints a matrix (package parity). It ends with status 1
// when they differ somewhere without a known reason.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/parity"
)

func main() {
	lab.Init()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// failure is one that is not of usage.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// run is the whole command line; it returns the exit status: 0, or 1 for differences that nobody can explain and for failures, or 2 for wrong usage.
func run(ctx context.Context, args []string, in io.Reader, out, log io.Writer) int {
	c := newCommand(in, out, log)
	c.SetArgs(args)
	c.SetOut(out)
	c.SetErr(log)
	err := c.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(log, "keylab-parity: %v\n", err)
	if errors.As(err, new(failure)) {
		return 1
	}
	return 2
}

func newCommand(in io.Reader, out, log io.Writer) *cobra.Command {
	var o parity.Options
	var report, record string
	c := &cobra.Command{
		Use:   "keylab-parity [AGENT]",
		Short: "Compare keylab's own agent with a real one",
		Long: `Brings up a lab with agents of both kinds, does the same to both, and prints a matrix (Markdown) of what they did and of what Keylime's
verifier made of it; progress goes to standard error. It takes a quarter of an hour. AGENT is rust-keylime's keylime_agent; without it, only the push
model is compared.`,
		Args: cobra.MaximumNArgs(1), SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, args []string) error {
			o.Agent = ""
			if len(args) > 0 {
				o.Agent = args[0]
			}
			for name, path := range map[string]*string{"AGENT": &o.Agent, "--push-agent": &o.PushAgent} {
				if *path == "" {
					continue
				}
				var err error
				if *path, err = filepath.Abs(*path); err == nil {
					_, err = os.Stat(*path)
				}
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			if o.Agent == "" && o.PushAgent == "" {
				return errors.New("name an AGENT, or a --push-agent, or both")
			}
			o.Progress = func(line string) { fmt.Fprintln(log, line) }
			return compare(c.Context(), o, report, record, out, log)
		},
	}
	f := c.Flags()
	f.StringVar(&o.PushAgent, "push-agent", "", "an agent of the push model, rust-keylime's keylime_push_model_agent")
	f.StringVar(&o.Version, "agent-version", "of an unknown version", "the agents' version, for the report")
	f.StringVar(&o.Only, "only", "", "only the requests (cases), only the verifier's verdicts in the pull model (verdicts), or only those in the push model (push)")
	f.StringVar(&o.Case, "case", "", "of the verdicts, only those whose names match this regular expression")
	f.StringVar(&report, "report", "", "write the matrix to this file, and to standard output the counts alone")
	f.StringVar(&record, "record", "", "write what AGENT answered to this file (JSON), to which the tests of package parity hold keylab's own agent")
	c.AddCommand(&cobra.Command{
		Use: parity.ChildCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := parity.RunChild(c.Context(), in, out); err != nil {
				return failure{err}
			}
			return nil
		},
	})
	c.CompletionOptions.DisableDefaultCmd = true
	return c
}

func compare(ctx context.Context, o parity.Options, report, record string, out, log io.Writer) error {
	result, err := parity.Run(ctx, o)
	if result == nil {
		if err != nil {
			err = failure{err}
		}
		return err
	}
	var text bytes.Buffer
	if e := result.Markdown(&text); e != nil {
		return failure{errors.Join(err, e)}
	}
	if report == "" {
		_, e := out.Write(text.Bytes())
		err = errors.Join(err, e)
	} else {
		_, e := fmt.Fprintln(out, result.Summary())
		err = errors.Join(err, e, atomicfile.Write(report, text.Bytes(), 0o644))
	}
	if record != "" && result.Other != nil {
		var data bytes.Buffer
		err = errors.Join(err, result.Record(&data))
		err = errors.Join(err, atomicfile.Write(record, data.Bytes(), 0o644))
	}
	if err != nil {
		return failure{err}
	}
	if left := result.Unexplained(); len(left) > 0 {
		for _, d := range left {
			fmt.Fprintf(log, "%s\n  own:   %s\n  other: %s\n", d.Case, d.Own, d.Other)
		}
		return failure{fmt.Errorf("%d differences that nobody has explained, or explanations without a difference", len(left))}
	}
	return nil
}
