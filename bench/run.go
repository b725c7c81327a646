package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
)

// envState names the folder of this user's labs (package state).
const envState = state.EnvBase

// Options say what is measured. A number that is 0 stands for its default.
type Options struct {
	Nodes       int    `json:"nodes"`                  // of the labs that are brought up; default 8
	Repetitions int    `json:"repetitions"`            // of `up` and of the services alone, for each EK algorithm; default 5
	TPMs        int    `json:"tpms"`                   // made one by one and at once, for each EK algorithm; default 64
	Quotes      int    `json:"quotes"`                 // asked of each kind of agent, in each way; default 200
	AgentBinary string `json:"agent_binary,omitempty"` // absolute path of a real agent to measure too; default none
	Sections    string `json:"sections,omitempty"`     // comma-separated: up, manufacture, quotes, fleet, scenarios, kind; default all
	// KindRepetitions is how often a lab on kind and a plain cluster are made, for each number of workers; default 1.
	KindRepetitions int    `json:"kind_repetitions,omitempty"`
	Version         string `json:"version,omitempty"` // of keylab, for the report; default what the build knows of itself

	// Progress is told what is being measured; nil: nobody is.
	Progress func(line string) `json:"-"`
}

// The values of Options.Sections.
const (
	SectionUp          = "up"
	SectionManufacture = "manufacture"
	SectionQuotes      = "quotes"
	SectionFleet       = "fleet"
	SectionScenarios   = "scenarios"
	SectionKind        = "kind"
)

var allSections = []string{SectionUp, SectionManufacture, SectionQuotes, SectionFleet, SectionScenarios, SectionKind}

func (o *Options) setDefaults() error {
	for _, d := range []struct {
		name        string
		value       *int
		def, lowest int
	}{{"nodes", &o.Nodes, 8, 2}, {"repetitions", &o.Repetitions, 5, 1}, {"TPMs", &o.TPMs, 64, 1}, {"quotes", &o.Quotes, 200, 1}, {"kind repetitions", &o.KindRepetitions, 1, 1}} {
		if *d.value == 0 {
			*d.value = d.def
		}
		if *d.value < d.lowest {
			return fmt.Errorf("%s: %d is too few: at least %d", d.name, *d.value, d.lowest)
		}
	}
	if o.Sections == "" {
		o.Sections = strings.Join(allSections, ",")
	}
	for s := range strings.SplitSeq(o.Sections, ",") {
		if !slices.Contains(allSections, s) {
			return fmt.Errorf("sections: %q is none of %s", s, strings.Join(allSections, ", "))
		}
	}
	return nil
}

func (o Options) has(section string) bool {
	for s := range strings.SplitSeq(o.Sections, ",") {
		if s == section {
			return true
		}
	}
	return false
}

// runner is one run.
type runner struct {
	options Options
	report  *Report
	dir     string // everything that the run writes, deleted at its end
	cache   string // Keylime's installations
}

func (r *runner) progress(format string, args ...any) {
	if r.options.Progress != nil {
		r.options.Progress(fmt.Sprintf(format, args...))
	}
}

// Run measures everything and returns the report. It takes about ten minutes with the defaults, and longer where there is Docker, and needs what a lab needs; it points
// the environment variable KEYLAB_STATE_DIR of this process to a folder of its own. When it fails, or ctx ends, the report holds what was
// measured until then, and all labs have been taken down.
func Run(ctx context.Context, o Options) (report *Report, err error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	r := &runner{options: o, report: &Report{Machine: readMachine(o.Version), Started: time.Now(), Options: o}}
	defer func() {
		r.report.Duration = time.Since(r.report.Started)
		r.report.Machine.LoadAtEnd = loadAverage()
	}()
	if r.cache, err = state.CacheBase(); err != nil {
		return r.report, err
	}
	if r.dir, err = os.MkdirTemp("", "keylab-bench-"); err != nil {
		return r.report, fmt.Errorf("make a folder for the benchmark: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	if err := r.stateDir(); err != nil {
		return r.report, err
	}
	return r.report, r.sections(ctx)
}

func (r *runner) sections(ctx context.Context) error {
	var many *memory
	if r.options.has(SectionUp) {
		for _, ek := range []spec.EKAlgorithm{spec.EKRSA2048, spec.EKECCP256} {
			mem, err := r.measureUp(ctx, ek)
			if err != nil {
				return err
			}
			if ek == spec.EKRSA2048 {
				many = mem
			}
		}
	}
	if r.options.has(SectionManufacture) {
		if err := r.measureManufacture(ctx); err != nil {
			return err
		}
	}
	if r.options.has(SectionQuotes) {
		if err := r.quotesAndMemory(ctx, many); err != nil {
			return err
		}
	}
	if r.options.has(SectionFleet) {
		if err := r.measureFleet(ctx); err != nil {
			return err
		}
	}
	if r.options.has(SectionScenarios) {
		if err := r.measureScenarios(ctx); err != nil {
			return err
		}
	}
	if r.options.has(SectionKind) {
		return r.measureKind(ctx)
	}
	return nil
}

// quotesAndMemory measures the agents in labs of one node, and compares the memory of such a lab with that of a larger one, if there
// was one.
func (r *runner) quotesAndMemory(ctx context.Context, many *memory) error {
	section := Section{Title: "quotes: GET /v2.6/quotes/integrity over TLS, through router and ingress, one request at a time"}
	one, figures, err := r.measureQuotes(ctx, "Go", "")
	if err != nil {
		return err
	}
	section.add(figures...)
	var memoryOf Section
	if many != nil {
		memoryOf = memorySection(one, many)
	}
	if r.options.AgentBinary == "" {
		section.say("another agent: not measured: no program was named")
	} else {
		mem, figures, err := r.measureQuotes(ctx, "binary", r.options.AgentBinary)
		if ctx.Err() != nil {
			return err
		}
		if err != nil {
			section.say("%s: not measured: %v", r.options.AgentBinary, err)
		} else {
			section.add(figures...)
			memoryOf.add(distribution("binary agent process", "MiB", mem.parts[partAgent]))
		}
	}
	section.say("The verifier's own polls go on meanwhile. Each quote was checked against the registered AK and its nonce.")
	r.report.Sections = append(r.report.Sections, section)
	if len(memoryOf.Figures) > 0 {
		if memoryOf.Title == "" {
			memoryOf.Title = "memory (PSS)"
		}
		r.report.Sections = append(r.report.Sections, memoryOf)
	}
	return nil
}

// countOf names a figure of a lab of so many nodes.
func countOf(what string, nodes int) string {
	return fmt.Sprintf("%s, %d nodes", what, nodes)
}
