package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// maxQuoted is how much of one evidence or log WriteRunMarkdown shows, in bytes: a summary page of GitHub has at most 1 MiB.
const maxQuoted = 4000

// WriteRunMarkdown writes runs of scenarios for the summary page of a CI job, in GitHub's Markdown: a table of all runs; of each that did
// not pass, the steps that failed with what was seen, and the ends of logs; of each that passed, its steps, folded. Where nodes went
// without a good attestation for long or there is a runbook, these too.
func WriteRunMarkdown(w io.Writer, runs []Run) error {
	var b strings.Builder
	if len(runs) == 0 {
		b.WriteString("## ❌ keylab: " + noRuns + "\n")
	} else {
		tally := TallyOf(runs)
		fmt.Fprintf(&b, "## %s keylab: %s\n\n", tally.mark(), tally)
		b.WriteString("|   | scenario | model | on | what it shows | steps | longest gap | time |\n|---|---|---|---|---|---|---|---|\n")
	}
	runs = Begun(runs)
	for _, r := range runs {
		ok, failed, skipped := r.Count()
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", r.Verdict.mark(), mdCode(r.Scenario), mdCell(r.Mode), mdCell(r.Substrate), mdCell(r.Title),
			stepCounts(ok, failed, skipped), longestGap(r.Gaps), span(r.Duration))
	}
	for _, r := range runs {
		if !r.Passed() {
			markdownFailed(&b, r)
		}
	}
	for _, r := range runs {
		if r.Passed() {
			fmt.Fprintf(&b, "\n<details><summary>✅ <b>%s</b>: %s</summary>\n\n", mdCell(r.Scenario), mdCell(r.Title))
			markdownFacts(&b, r)
			markdownSteps(&b, r.Steps)
			markdownRest(&b, r)
			b.WriteString("\n</details>\n")
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write the Markdown report of %d runs: %w", len(runs), err)
	}
	return nil
}

// mark is a verdict as one character.
func (v Verdict) mark() string {
	switch v {
	case Passed:
		return "✅"
	case Interrupted:
		return "⏹️"
	}
	return "❌"
}

func markdownFailed(b *strings.Builder, r Run) {
	fmt.Fprintf(b, "\n### %s %s: %s\n\n**%s.** %s\n\n", r.Verdict.mark(), mdCell(r.Scenario), mdCell(r.Title), verdictWords(r.Verdict), mdCell(r.Reason()))
	markdownFacts(b, r)
	for _, s := range r.Steps {
		if s.Reason() == "" {
			continue
		}
		fmt.Fprintf(b, "- ❌ **%s** %s, %s after %s", stepNumber(s), mdCell(s.Title()), mdCell(string(s.Kind)), span(s.At))
		if len(s.Nodes) > 0 {
			fmt.Fprintf(b, " (%s)", mdCell(strings.Join(s.Nodes, ", ")))
		}
		b.WriteString("\n")
		quote(b, "  ", s.Reason())
		if s.Evidence != "" {
			b.WriteString("\n  Seen:\n")
			quote(b, "  ", s.Evidence)
		}
	}
	b.WriteString("\n<details><summary>All steps</summary>\n\n")
	markdownSteps(b, r.Steps)
	b.WriteString("\n</details>\n")
	markdownRest(b, r)
	for _, l := range r.Logs {
		fmt.Fprintf(b, "\n<details><summary>Log of %s</summary>\n\n", mdCell(l.Name))
		quote(b, "", l.Text)
		b.WriteString("\n</details>\n")
	}
}

func verdictWords(v Verdict) string {
	switch v {
	case Passed:
		return "Passed"
	case Failed:
		return "Failed"
	case Broken:
		return "Could not be carried out"
	case Interrupted:
		return "Interrupted"
	}
	return "No verdict"
}

func markdownFacts(b *strings.Builder, r Run) {
	fmt.Fprintf(b, "Lab %s on %s, %s model, Keylime %s, agents %s, seed %d, %s.\n\n", mdCell(r.Lab), mdCell(r.Substrate), mdCell(r.Mode), mdCell(r.Keylime),
		mdCell(r.Agent), r.Seed, r.Started.UTC().Format("2006-01-02 15:04:05 MST"))
	if r.Disarmed != "" {
		fmt.Fprintf(b, "Disarmed: %s.\n\n", mdCell(r.Disarmed))
	}
}

func markdownSteps(b *strings.Builder, steps []Step) {
	if len(steps) == 0 {
		b.WriteString("No step was carried out.\n")
		return
	}
	b.WriteString("| # |   | step | at | took | what was done and seen |\n|---|---|---|---|---|---|\n")
	for _, s := range steps {
		mark := "✅"
		switch {
		case s.Status == StepSkipped:
			mark = "⏭️"
		case s.Reason() != "":
			mark = "❌"
		}
		seen := slices.DeleteFunc([]string{firstLine(s.Done), firstLine(s.Evidence), firstLine(s.Reason())}, func(t string) bool { return t == "" })
		at, took := span(s.At), span(s.Duration)
		if s.Status == StepSkipped {
			at, took = "–", "–"
		}
		fmt.Fprintf(b, "| %s | %s | %s: %s | %s | %s | %s |\n", stepNumber(s), mark, mdCell(string(s.Kind)), mdCell(s.Title()), at, took,
			mdCell(strings.Join(seen, "; ")))
	}
}

// markdownRest is the gaps and the runbook. Gaps of a run in which nothing was refused or given up are worth a table only if there is a
// runbook, for then they are what it costs.
func markdownRest(b *strings.Builder, r Run) {
	worth := len(r.Runbook) > 0 || slices.ContainsFunc(r.Gaps, func(g Gap) bool { return g.Refusals > 0 || g.Failures > 0 })
	if worth && len(r.Gaps) > 0 {
		b.WriteString("\n| node | longest without a good attestation | from | refused | given up | good ones |\n|---|---|---|---|---|---|\n")
		for _, g := range r.Gaps {
			fmt.Fprintf(b, "| %s | %s | %s | %d | %d | %d |\n", mdCell(g.Node), span(g.Longest), span(g.At), g.Refusals, g.Failures, g.Count)
		}
	}
	if len(r.Runbook) > 0 {
		b.WriteString("\n<details><summary>Runbook: the same by hand, against a real Keylime</summary>\n\n")
		quote(b, "", strings.Join(r.Runbook, "\n"))
		b.WriteString("\n</details>\n")
	}
}

// quote writes text as a fenced block, indented, in a fence that the text cannot end.
func quote(b *strings.Builder, indent, text string) {
	if len(text) > maxQuoted {
		cut := maxQuoted
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = fmt.Sprintf("%s\n… %d more bytes", text[:cut], len(text)-cut)
	}
	fence := "```"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	if indent != "" {
		b.WriteString("\n")
	}
	fmt.Fprintf(b, "%s%s\n", indent, fence)
	for _, line := range lines(text) {
		b.WriteString(strings.TrimRight(indent+line, " ") + "\n")
	}
	fmt.Fprintf(b, "%s%s\n", indent, fence)
}

// mdEscapes are the characters that mean something inside a line of Markdown, or could begin HTML, a link or a mention.
var mdEscapes = strings.NewReplacer(`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "|", `\|`, "[", `\[`, "]", `\]`, "~", `\~`, "#", `\#`, "$", `\$`,
	"<", "&lt;", ">", "&gt;", "&", "&amp;", "@", "&#64;", "://", "&#58;//")

// mdCell is text as one line of Markdown in which nothing is markup.
func mdCell(s string) string { return mdEscapes.Replace(oneLine(s)) }

// mdCode is a name as code. Names of scenarios are simple; others are shown as text.
func mdCode(s string) string {
	if strings.ContainsAny(s, "`|\\\n") || s == "" {
		return mdCell(s)
	}
	return "`" + oneLine(s) + "`"
}

// span prints a length of time; what is less than a millisecond is none.
func span(d time.Duration) string { return seconds(d.Round(time.Millisecond)) }

func firstLine(s string) string {
	all := lines(s)
	switch len(all) {
	case 0:
		return ""
	case 1:
		return all[0]
	}
	return all[0] + " …"
}

func stepNumber(s Step) string {
	if s.Number == 0 {
		return "·"
	}
	return fmt.Sprint(s.Number)
}

func stepCounts(passed, failed, skipped int) string {
	text := fmt.Sprintf("%d passed", passed)
	if failed > 0 {
		text += fmt.Sprintf(", %d failed", failed)
	}
	if skipped > 0 {
		text += fmt.Sprintf(", %d skipped", skipped)
	}
	return text
}

func longestGap(gaps []Gap) string {
	if len(gaps) == 0 {
		return "–"
	}
	longest := slices.MaxFunc(gaps, func(a, b Gap) int { return int(a.Longest/time.Microsecond - b.Longest/time.Microsecond) })
	return span(longest.Longest) + " (" + mdCell(longest.Node) + ")"
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
