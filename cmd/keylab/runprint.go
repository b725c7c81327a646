package main

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/report"
	"keylab.dev/keylab/scenario"
)

// runPrinter shows runs: the steps of a single one as they come, of several side by side a line for each that has ended, with the steps of those that
// did not pass.
type runPrinter struct {
	out, err io.Writer
	paint    palette
	live     bool // a line that is redrawn
	total    int
	single   bool
	verbose  bool

	mu      sync.Mutex
	done    int
	running map[string]string // job to what it does
	order   []string
	drawn   bool
}

func newRunPrinter(s streams, total, labs int, verbose bool) *runPrinter {
	return &runPrinter{
		out: s.out, err: s.err, paint: newPalette(s.err), live: terminal(s.err), total: total, single: total == 1 || labs == 1, verbose: verbose,
		running: map[string]string{},
	}
}

// attach has a job tell its progress.
func (p *runPrinter) attach(j *scenario.Job) {
	name := j.Name()
	j.Options.OnLab = func(e lab.Event) {
		if e.Step != "" && e.State == "start" {
			p.doing(name, "lab: "+e.Step)
		}
	}
	j.Options.OnStep = func(s report.Step) {
		if s.Status == "" {
			p.doing(name, s.Name)
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.single {
			p.clear()
			p.step(s)
			p.draw()
		}
	}
}

func (p *runPrinter) doing(job, what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running[job] = what
	p.draw()
}

func (p *runPrinter) start(j scenario.Job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running[j.Name()] = "starting"
	p.order = append(p.order, j.Name())
	if p.single {
		p.clear()
		fmt.Fprintf(p.err, "%s: %s (%s, %s)\n", j.Scenario.Name, j.Scenario.Title, j.Options.Mode, j.Options.Substrate)
		p.draw()
	}
}

// step prints one step that has ended.
func (p *runPrinter) step(s report.Step) {
	mark := p.paint.green("✓")
	switch s.Status {
	case report.StepFailed:
		mark = p.paint.red("✗")
	case report.StepSkipped:
		fmt.Fprintf(p.err, "  - %s, not come to\n", s.Name)
		return
	}
	fmt.Fprintf(p.err, "  %s %s, %s\n", mark, s.Name, strings.TrimSpace(seconds(s.Duration)))
	say := func(text string) {
		for line := range strings.Lines(strings.TrimSpace(text)) {
			fmt.Fprintf(p.err, "      %s\n", strings.TrimRight(line, "\n"))
		}
	}
	if s.Error != "" {
		say(s.Error)
	} else if p.verbose || s.Kind == report.StepFault {
		say(strings.Trim(s.Done+"; "+s.Evidence, "; "))
	}
}

func (p *runPrinter) ended(j scenario.Job, r report.Run, file string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	delete(p.running, j.Name())
	p.clear()
	if !p.single {
		fmt.Fprintf(p.err, "%s %s, %s\n", p.mark(r.Verdict), j.Name(), strings.TrimSpace(seconds(r.Duration)))
		if r.Verdict != report.Passed {
			for _, s := range r.Steps {
				p.step(s)
			}
		}
	}
	if r.Verdict != report.Passed && r.Error != "" && (p.single || r.Verdict == report.Broken) {
		fmt.Fprintf(p.err, "%s: %s\n", r.Verdict, r.Error)
	}
	if r.Disarmed != "" && (p.single || p.verbose) {
		fmt.Fprintf(p.err, "Disarmed: %s\n", r.Disarmed)
	}
	if p.single {
		fmt.Fprintf(p.err, "%s %s, %s.", p.mark(r.Verdict), r.Verdict, strings.TrimSpace(seconds(r.Duration)))
		if file != "" {
			fmt.Fprintf(p.err, " Report: %s", file)
		}
		fmt.Fprintln(p.err)
	} else if file != "" && r.Verdict != report.Passed {
		fmt.Fprintf(p.err, "  report: %s\n", file)
	}
	p.draw()
}

func (p *runPrinter) mark(v report.Verdict) string {
	if v == report.Passed {
		return p.paint.green("✓")
	}
	return p.paint.red("✗")
}

// clear takes the redrawn line away.
func (p *runPrinter) clear() {
	if p.drawn {
		fmt.Fprint(p.err, "\r\033[K")
		p.drawn = false
	}
}

func (p *runPrinter) draw() {
	if !p.live || len(p.running) == 0 {
		return
	}
	p.clear()
	var now []string
	for _, name := range p.order {
		if what, ok := p.running[name]; ok {
			now = append(now, name+": "+what)
		}
	}
	line := fmt.Sprintf("%d of %d done  %s", p.done, p.total, strings.Join(now, " · "))
	if p.single {
		line = "  … " + strings.Join(now, " · ")
	}
	if r := []rune(line); len(r) > 100 {
		line = string(r[:99]) + "…"
	}
	fmt.Fprint(p.err, line)
	p.drawn = true
}

// summary prints a table of several runs, and at the end why those did not pass that did not.
func (p *runPrinter) summary(runs []report.Run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	if len(runs) < 2 {
		return
	}
	var rows [][]string
	for _, r := range report.Begun(runs) {
		ok := 0
		for _, s := range r.Steps {
			if s.Status == report.StepPassed {
				ok++
			}
		}
		rows = append(rows, []string{r.Scenario, r.Mode, r.Substrate, string(r.Verdict), fmt.Sprintf("%d of %d", ok, len(r.Steps)), strings.TrimSpace(seconds(r.Duration))})
	}
	fmt.Fprintln(p.err)
	_ = table(p.out, "SCENARIO|MODE|SUBSTRATE|VERDICT|STEPS|TIME", rows)
	fmt.Fprintln(p.err)
	// Said once more: what did not pass scrolled away long ago, and of a long log often only the end is kept.
	for _, r := range report.Begun(runs) {
		if !r.Passed() {
			fmt.Fprintf(p.err, "%s %s (%s, %s): %s\n", p.mark(r.Verdict), r.Scenario, r.Mode, r.Substrate, strings.ReplaceAll(r.Reason(), "\n", "\n  "))
		}
	}
	fmt.Fprintf(p.err, "%s.\n", report.TallyOf(runs))
}

// printSteps prints what would be done.
func printSteps(w io.Writer, jobs []scenario.Job) error {
	for i, j := range jobs {
		s, err := j.Scenario.Prepare(j.Options)
		if err != nil {
			return err
		}
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s: %s\nA lab of %s on %s, mode %s, Keylime %s, agents of kind %s.\n", s.Name, s.Title, count(len(s.Nodes()), "node"), s.Lab.Substrate, s.Lab.Keylime.Mode, s.Lab.Keylime.Version, s.Lab.Agent.Kind)
		for n, step := range s.Cast(j.Options.Seed) {
			fmt.Fprintf(w, "%3d  %s\n", n+1, step.Sentence())
		}
	}
	return nil
}
