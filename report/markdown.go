package report

import (
	"fmt"
	"io"
	"strings"
)

// WriteMarkdown writes r for the summary page of a CI job, in GitHub's Markdown: how many checks of each point passed, each that failed with why, and,
// folded, all of them with their evidence.
func WriteMarkdown(w io.Writer, r Result) error {
	var b strings.Builder
	passed, failed := count(r.Checks)
	switch {
	case len(r.Checks) == 0:
		fmt.Fprintf(&b, "## ❌ keylab: lab %s, %s\n", mdCode(r.Lab), noChecks)
	case failed == 0:
		fmt.Fprintf(&b, "## ✅ keylab: lab %s, %s passed\n", mdCode(r.Lab), plural(passed, "check"))
	default:
		fmt.Fprintf(&b, "## ❌ keylab: lab %s, %d of %s failed\n", mdCode(r.Lab), failed, plural(passed+failed, "check"))
	}
	if len(r.Checks) > 0 {
		b.WriteString("\n|   | what | checks |\n|---|---|---|\n")
	}
	for _, g := range r.groups() {
		passed, failed := count(g.checks)
		fmt.Fprintf(&b, "| %s | %s | %s |\n", checkMark(failed == 0), mdCell(g.point), stepCounts(passed, failed, 0))
	}
	for _, c := range r.Checks {
		if c.Passed() {
			continue
		}
		fmt.Fprintf(&b, "\n- ❌ **%s**\n", mdCell(c.Name()))
		quote(&b, "  ", c.failure())
		if c.Evidence != "" {
			b.WriteString("\n  Seen:\n")
			quote(&b, "  ", c.Evidence)
		}
	}
	if passed > 0 {
		b.WriteString("\n<details><summary>All checks that passed</summary>\n\n| check | what was seen |\n|---|---|\n")
		for _, c := range r.Checks {
			if c.Passed() {
				fmt.Fprintf(&b, "| %s | %s |\n", mdCell(c.Name()), mdCell(c.Evidence))
			}
		}
		b.WriteString("\n</details>\n")
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write the Markdown report of lab %s: %w", r.Lab, err)
	}
	return nil
}

func checkMark(ok bool) string {
	if ok {
		return "✅"
	}
	return "❌"
}
