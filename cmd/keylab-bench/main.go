// Command keylab-bench measures keylab on this machine and prints a table: `up` beside Keylime's services alone, making TPMs beside
// swtpm_setup, quote latencies, memory, `verify` and `down`. Nothing is asserted. See package bench for how to read the figures.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/bench"
	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/lab"
)

func main() {
	lab.Init()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is the whole command line; it returns the exit status: 0, or 1 when something could not be measured, or 2 for wrong usage.
func run(ctx context.Context, args []string, in io.Reader, out, log io.Writer) int {
	c := newCommand(in, out, log)
	c.SetArgs(args)
	c.SetOut(out)
	c.SetErr(log)
	err := c.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(log, "keylab-bench: %v\n", err)
	var failed measureError
	if errors.As(err, &failed) {
		return 1
	}
	return 2
}

// measureError is a failure that is not one of usage.
type measureError struct{ error }

func (e measureError) Unwrap() error { return e.error }

func newCommand(in io.Reader, out, log io.Writer) *cobra.Command {
	var o bench.Options
	var jsonFile string
	c := &cobra.Command{
		Use:   "keylab-bench",
		Short: "Measure keylab on this machine",
		Long: `Measures keylab on this machine, all in one run, and prints a table; progress goes to standard error. It takes some minutes.
Nothing is asserted: what is marked noisy is not to be compared. Other work on the machine makes wall times longer.`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			return measure(c.Context(), o, jsonFile, out, log)
		},
	}
	f := c.Flags()
	f.IntVar(&o.Nodes, "nodes", 8, "nodes of the labs that are brought up, at least 2")
	f.IntVar(&o.Repetitions, "repetitions", 5, "repetitions of up and of the services alone, for each EK algorithm")
	f.IntVar(&o.TPMs, "tpms", 64, "TPMs made one by one and at once, for each EK algorithm")
	f.IntVar(&o.Quotes, "quotes", 200, "quotes asked of each agent, over new connections and over a kept one")
	f.StringVar(&o.AgentBinary, "agent-binary", "", "measure this agent too (rust-keylime's keylime_agent)")
	f.StringVar(&o.Sections, "only", "", "measure only these, comma-separated: up, manufacture, quotes, fleet, scenarios, kind")
	f.IntVar(&o.KindRepetitions, "kind-repetitions", 1, "repetitions of a lab on kind and of a plain cluster, for 3 and for 6 workers")
	f.StringVar(&jsonFile, "json", "", "write the report with all samples to this file too")
	c.AddCommand(&cobra.Command{
		Use: bench.ClientCommand, Hidden: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := bench.RunClient(c.Context(), in, out); err != nil {
				return measureError{err}
			}
			return nil
		},
	})
	c.CompletionOptions.DisableDefaultCmd = true
	return c
}

// version is stamped by the build (-ldflags "-X main.version=…").
var version string

// measure runs the benchmark and writes what it found, also when it was cut short.
func measure(ctx context.Context, o bench.Options, jsonFile string, out, log io.Writer) error {
	if o.AgentBinary != "" {
		path, err := filepath.Abs(o.AgentBinary)
		if err != nil {
			return fmt.Errorf("--agent-binary: %w", err)
		}
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("--agent-binary: %w", err)
		}
		o.AgentBinary = path
	}
	o.Version = version
	o.Progress = func(line string) { fmt.Fprintln(log, line) }
	report, err := bench.Run(ctx, o)
	if report == nil {
		return err // the options are wrong
	}
	if err != nil {
		err = measureError{err}
	}
	if len(report.Sections) == 0 {
		return err
	}
	if tableErr := report.WriteTable(out); tableErr != nil {
		return errors.Join(err, measureError{tableErr})
	}
	if jsonFile == "" {
		return err
	}
	data, jsonErr := report.JSON()
	if jsonErr == nil {
		jsonErr = atomicfile.Write(jsonFile, data, 0o644)
	}
	if jsonErr != nil {
		return errors.Join(err, measureError{jsonErr})
	}
	return err
}
