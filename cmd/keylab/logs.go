package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/lab"
)

func newLogs(s streams) *cobra.Command {
	var f labFlag
	var follow bool
	c := &cobra.Command{
		Use:   "logs [COMPONENT…]",
		Short: "Print the logs of a lab: of all components, or of those named",
		Long: `Prints the logs of a lab's last run. Components are registrar, verifier, tenant, dns, ingress, supervisor, each node by its name
(its agent) and tpm-NODE. With several, each line begins with its component.`,
		RunE: func(c *cobra.Command, args []string) error {
			l, err := f.open(nil)
			if err != nil {
				return err
			}
			if !l.Dir().Exists() {
				return explain(l, lab.ErrNotRunning)
			}
			if err := l.CollectLogs(c.Context()); err != nil {
				return err
			}
			names, err := logNames(l, args)
			if err != nil {
				return err
			}
			if follow {
				if err := l.FollowLogs(c.Context(), names); err != nil {
					return err
				}
			}
			return printLogs(c.Context(), s.out, l, names, follow)
		},
	}
	f.add(c)
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on as the logs grow, until ctrl-C")
	return c
}

// logNames are the components asked for, or all that have a log.
func logNames(l *lab.Lab, asked []string) ([]string, error) {
	all, err := l.LogNames()
	if err != nil {
		return nil, err
	}
	for _, name := range asked {
		if !slices.Contains(all, name) {
			return nil, usagef("there is no log of %q; there are %s", name, strings.Join(all, ", "))
		}
	}
	if len(asked) > 0 {
		return asked, nil
	}
	return all, nil
}

// printLogs copies the logs; when following, as they grow.
func printLogs(ctx context.Context, w io.Writer, l *lab.Lab, names []string, follow bool) error {
	width := 0
	if len(names) > 1 {
		for _, n := range names {
			width = max(width, len(n))
		}
	}
	var mu sync.Mutex
	emit := func(name, line string) {
		mu.Lock()
		defer mu.Unlock()
		if width > 0 {
			fmt.Fprintf(w, "%-*s | ", width, name)
		}
		fmt.Fprintln(w, line)
	}
	errs := make(chan error, len(names))
	for _, name := range names {
		read := func() error { return copyLog(ctx, l.Dir().Log(name), follow, func(line string) { emit(name, line) }) }
		if follow {
			go func() { errs <- read() }()
			continue
		}
		errs <- read()
	}
	for range names {
		if err := <-errs; err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// copyLog hands over a log's lines, and with follow waits for more until ctx ends.
func copyLog(ctx context.Context, path string, follow bool, emit func(string)) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the log: %w", err)
	}
	defer f.Close()
	in := bufio.NewReader(f)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	part := ""
	for {
		line, err := in.ReadString('\n')
		part += line
		switch {
		case err == nil:
			emit(strings.TrimSuffix(part, "\n"))
			part = ""
			continue
		case err != io.EOF:
			return fmt.Errorf("read the log: %w", err)
		case !follow:
			if part != "" {
				emit(part)
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
