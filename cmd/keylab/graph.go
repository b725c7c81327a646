package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"keylab.dev/keylab/graph"
	"keylab.dev/keylab/lab"
)

type graphFlags struct {
	lab    labFlag
	file   string
	format string
	plan   bool
}

func newGraph(s streams) *cobra.Command {
	f := &graphFlags{}
	c := &cobra.Command{
		Use:   "graph [LAB]",
		Short: "Draw a lab: networks, router, services, ingress, nodes and EK CAs",
		Long: `Draws a lab's topology: the two networks, what the router lets pass between them, the services, the ingress, each node
with its TPM, and the CA that certified its EK. Of a running lab it shows the states of all of these; with --plan, only
what was planned. With --file it draws the lab that a specification would give.

More than a dozen nodes are drawn in groups of those that are alike.

  mermaid   a flowchart for Markdown, as GitHub and GitLab draw it
  dot       for Graphviz: keylab graph --format dot | dot -Tpng -o lab.png
  svg       a picture, light or dark as its reader has it`,
		Example: `  keylab graph
  keylab graph --format svg > lab.svg
  keylab graph -f examples/mixed.yaml --format dot`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeLabs,
		RunE:              func(c *cobra.Command, args []string) error { return f.run(c.Context(), s, args) },
	}
	f.lab.add(c)
	c.Flags().StringVarP(&f.file, "file", "f", "", "draw the lab of this specification; - for standard input")
	c.Flags().StringVar(&f.format, "format", "mermaid", "mermaid, dot or svg")
	c.Flags().BoolVar(&f.plan, "plan", false, "only what is planned, also of a running lab")
	return c
}

func (f *graphFlags) run(ctx context.Context, s streams, args []string) error {
	write, ok := map[string]func(graph.Graph, io.Writer) error{"mermaid": graph.Graph.Mermaid, "dot": graph.Graph.DOT, "svg": graph.Graph.SVG}[f.format]
	if !ok {
		return usagef("--format %q is not one of mermaid, dot, svg", f.format)
	}
	g, err := f.graph(ctx, s, args)
	if err != nil {
		return err
	}
	return write(g, s.out)
}

func (f *graphFlags) graph(ctx context.Context, s streams, args []string) (graph.Graph, error) {
	if f.file != "" {
		if len(args) > 0 || f.lab.name != "" {
			return graph.Graph{}, usagef("both a lab and a specification are named: --file draws what a file says, a lab's name what there is")
		}
		labSpec, err := readSpec(s.in, f.file)
		if err != nil {
			return graph.Graph{}, err
		}
		p, err := lab.Plan(labSpec)
		if err != nil {
			return graph.Graph{}, usageError{err}
		}
		return graph.Of(p, nil), nil
	}
	l, err := f.lab.open(args)
	if err != nil {
		return graph.Graph{}, err
	}
	var status *lab.Status
	if !f.plan {
		now, err := l.Status(ctx)
		switch {
		case err == nil:
			status = &now
		case errors.Is(err, lab.ErrNotRunning) && l.Dir().Made():
		case errors.Is(err, lab.ErrNotRunning) && !l.Dir().Exists():
			return graph.Graph{}, fmt.Errorf("%w; `keylab graph -f FILE` draws what a specification says", explain(l, err))
		default:
			return graph.Graph{}, explain(l, err)
		}
	}
	p, err := l.Planned()
	if err == nil && p.Lab == "" {
		err = lab.ErrNotRunning
	}
	if err != nil {
		return graph.Graph{}, explain(l, err)
	}
	g := graph.Of(p, status)
	if f.plan {
		return g, nil
	}
	certificates, err := l.Certificates()
	if err != nil {
		return g, fmt.Errorf("read the EK CAs: %w", err)
	}
	g.Certify(certificates)
	return g, nil
}
