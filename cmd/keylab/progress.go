package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/steps"
)

// progress prints a lab's start: a line per step with its time, where the steps of all nodes that do the same are one
// line. On a terminal a last line, redrawn, shows what is under way.
type progress struct {
	w       io.Writer
	live    bool
	paint   palette
	verbose bool
	start   time.Time

	mu     sync.Mutex
	groups map[string]*stepGroup
	order  []string
	drawn  bool // the redrawn line stands on the screen
	undone int
	phase  string // of the installation, under way
}

// stepGroup is one step, or the same step for every node.
type stepGroup struct {
	name        string
	total, done int
	began       time.Time
	failed      bool
}

func newProgress(w io.Writer, p plan.Plan, verbose bool) *progress {
	pr := &progress{w: w, live: terminal(w), paint: newPalette(w), verbose: verbose, start: time.Now(), groups: map[string]*stepGroup{}}
	pr.group(lab.StepInstall).total++
	for _, s := range p.Steps {
		pr.group(s.Name).total++
	}
	return pr
}

// group finds the group of a step's name: "tpm" for "tpm/node-1".
func (p *progress) group(step string) *stepGroup {
	name, _, _ := strings.Cut(step, "/")
	g := p.groups[name]
	if g == nil {
		g = &stepGroup{name: name}
		p.groups[name] = g
		p.order = append(p.order, name)
	}
	return g
}

func (p *progress) elapsed() time.Duration { return time.Since(p.start) }

// event takes one line of progress.
func (p *progress) event(e lab.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.State {
	case string(steps.Start):
		if g := p.group(e.Step); g.began.IsZero() {
			g.began = e.Time
		}
	case string(steps.Done):
		p.stepDone(e)
	case string(steps.Failed):
		p.group(e.Step).failed = true
		p.line("%s %-18s %s", p.paint.red("✗"), e.Step, seconds(e.Elapsed))
	case string(steps.Stopped):
		p.group(e.Step).failed = true
		p.line("- %-18s %s, stopped", e.Step, seconds(e.Elapsed))
	case string(steps.Undone):
		p.undone++
	case string(steps.UndoFailed):
		p.line("%s undo %-13s %s", p.paint.red("✗"), e.Step, e.Error)
	case control.EventNote:
		p.note(e)
	case control.EventEnded:
		if p.undone > 0 {
			p.line("  took back %s", count(p.undone, "step"))
		}
	}
	p.draw()
}

// note prints a remark of a step. Of the installation's, which are the output of pip, only its phases are of interest.
func (p *progress) note(e lab.Event) {
	text, phase := strings.CutPrefix(e.Text, keylime.PhasePrefix)
	if e.Step == lab.StepInstall && !p.verbose {
		if !phase {
			return
		}
		if p.phase = text; !strings.Contains(text, keylime.PhaseDone) {
			return // shown as what is under way
		}
		p.phase = ""
	}
	p.line("  %s: %s", e.Step, text)
}

func (p *progress) stepDone(e lab.Event) {
	g := p.group(e.Step)
	g.done++
	if p.verbose && g.total > 1 {
		p.line("  %s %-16s %s", p.paint.green("✓"), e.Step, seconds(e.Elapsed))
	}
	if g.done < g.total {
		return
	}
	name, elapsed := g.name, e.Elapsed
	if g.total > 1 {
		name, elapsed = fmt.Sprintf("%s ×%d", g.name, g.total), e.Time.Sub(g.began)
	}
	p.line("%s %-18s %s", p.paint.green("✓"), name, seconds(elapsed))
}

// line prints a line that stays.
func (p *progress) line(format string, args ...any) {
	p.erase()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// draw shows what is under way, on a terminal.
func (p *progress) draw() {
	if !p.live {
		return
	}
	p.erase()
	var now []string
	for _, name := range p.order {
		g := p.groups[name]
		switch {
		case g.began.IsZero() || g.done == g.total || g.failed:
		case g.total > 1:
			now = append(now, fmt.Sprintf("%s %d/%d", g.name, g.done, g.total))
		case g.name == lab.StepInstall && p.phase != "":
			now = append(now, g.name+": "+p.phase)
		default:
			now = append(now, g.name)
		}
	}
	if len(now) > 0 {
		fmt.Fprintf(p.w, "  … %s", strings.Join(now, ", "))
		p.drawn = true
	}
}

func (p *progress) erase() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[2K")
		p.drawn = false
	}
}

// close leaves the screen clean.
func (p *progress) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
}

// count is a number of things, in words.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%6.2f s", d.Seconds()) }

// palette colours words, or leaves them alone.
type palette struct{ on bool }

func newPalette(w io.Writer) palette { return palette{colour(w)} }

func (p palette) wrap(code, s string) string {
	if !p.on {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p palette) green(s string) string  { return p.wrap("32", s) }
func (p palette) red(s string) string    { return p.wrap("31", s) }
func (p palette) yellow(s string) string { return p.wrap("33", s) }
