package report

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// TableOptions says how WriteTable writes.
type TableOptions struct {
	Color   bool // ANSI colours, for a terminal
	Verbose bool // all lines of the evidence, and the duration of each check
}

const (
	passMark = "✓"
	failMark = "✗"

	colorReset = "\x1b[0m"
	colorGreen = "\x1b[32m"
	colorRed   = "\x1b[31m"
	colorBold  = "\x1b[1m"
)

// WriteTable writes r for people: the checks grouped by point, one line each with mark, name and evidence; under a failed one its error;
// at the end a line such as "27 checks passed, 1 failed in 3.2s".
func WriteTable(w io.Writer, r Result, opts TableOptions) error {
	paint := func(color, s string) string {
		if !opts.Color {
			return s
		}
		return color + s + colorReset
	}
	width := 0
	for _, c := range r.Checks {
		width = max(width, utf8.RuneCountInString(oneLine(c.Name())))
	}
	var b strings.Builder
	for _, g := range r.groups() {
		fmt.Fprintln(&b, paint(colorBold, oneLine(g.point)))
		for _, c := range g.checks {
			mark := paint(colorGreen, passMark)
			if !c.Passed() {
				mark = paint(colorRed, failMark)
			}
			evidence := lines(c.Evidence)
			var details []string
			if opts.Verbose {
				if len(evidence) > 1 {
					evidence, details = nil, evidence
				}
				evidence = append(evidence, "("+seconds(c.Duration)+")")
			} else if len(evidence) > 1 {
				evidence = []string{evidence[0] + " …"}
			}
			name := oneLine(c.Name())
			pad := strings.Repeat(" ", width-utf8.RuneCountInString(name))
			fmt.Fprintln(&b, strings.TrimRight("  "+mark+" "+name+pad+"  "+strings.Join(evidence, " "), " "))
			for _, line := range details {
				fmt.Fprintln(&b, "      "+line)
			}
			if !c.Passed() {
				for _, line := range lines(c.failure()) {
					fmt.Fprintln(&b, "      "+paint(colorRed, line))
				}
			}
		}
	}
	if len(r.Checks) > 0 {
		fmt.Fprintln(&b)
	}
	color := colorGreen
	if !r.Passed() {
		color = colorRed
	}
	fmt.Fprintln(&b, paint(color, summary(r)))
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write the report of lab %s: %w", r.Lab, err)
	}
	return nil
}

func summary(r Result) string {
	passed, failed := count(r.Checks)
	if passed+failed == 0 {
		return noChecks
	}
	noun := "checks"
	if passed == 1 {
		noun = "check"
	}
	s := fmt.Sprintf("%d %s passed", passed, noun)
	if failed > 0 {
		s += fmt.Sprintf(", %d failed", failed)
	}
	if r.Duration > 0 {
		s += " in " + seconds(r.Duration)
	}
	return s
}

// seconds prints a duration with two or three digits that matter.
func seconds(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
