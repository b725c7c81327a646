package bench

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// WriteTable writes the report for people: the machine, and a table for each section. Bars such as "aim <= 60" are stated, not judged;
// "noisy" marks figures whose repetitions differ too much to be compared.
func (r *Report) WriteTable(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintln(&b, r.Machine.String())
	for _, s := range r.Sections {
		fmt.Fprintf(&b, "\n%s\n", s.Title)
		writeFigures(&b, s.Figures)
		for _, n := range s.Notes {
			fmt.Fprintf(&b, "  %s\n", strings.ReplaceAll(n, "\n", "\n    "))
		}
	}
	fmt.Fprintf(&b, "\nmeasured in %s; load average at the end %s\n", r.Duration.Round(time.Second), r.Machine.LoadAtEnd)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write the benchmark table: %w", err)
	}
	return nil
}

func writeFigures(b *strings.Builder, figures []Figure) {
	if len(figures) == 0 {
		return
	}
	rows := [][]string{{"", "median", "min", "max", "p95", "n", "unit", ""}}
	for _, f := range figures {
		s := f.Summary
		row := []string{f.Name, number(s.Median), "", "", "", fmt.Sprint(s.N), f.Unit, remark(f)}
		if s.N > 1 {
			row[2], row[3] = number(s.Min), number(s.Max)
		}
		if f.Distribution && s.N >= 20 { // of fewer samples the 95th percentile is about the largest
			row[4] = number(s.P95)
		}
		rows = append(rows, row)
	}
	writeColumns(b, rows)
}

// writeColumns writes rows of equal length with the first and the last two columns to the left and the numbers to the right.
func writeColumns(b *strings.Builder, rows [][]string) {
	last := len(rows[0]) - 1
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 || i >= last-1 {
				line.WriteString("  " + cell + pad)
			} else {
				line.WriteString("  " + pad + cell)
			}
		}
		fmt.Fprintln(b, strings.TrimRight(line.String(), " "))
	}
}

// remark is the last column.
func remark(f Figure) string {
	var parts []string
	if f.Aim > 0 {
		parts = append(parts, "aim ≤ "+number(f.Aim))
	}
	if f.Noisy {
		parts = append(parts, fmt.Sprintf("noisy (±%.0f %%)", 50*f.Summary.Spread))
	}
	if f.Note != "" {
		parts = append(parts, f.Note)
	}
	return strings.Join(parts, "; ")
}

// number writes three digits that matter.
func number(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 99.95 || v <= -99.95:
		return fmt.Sprintf("%.0f", v)
	case v >= 9.995 || v <= -9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
