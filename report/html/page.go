package html

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"strings"

	"keylab.dev/keylab/report"
)

var (
	//go:embed page.tmpl
	pageText string
	//go:embed style.css
	styleText string
	//go:embed script.js
	scriptText string

	page = template.Must(template.New("page").Funcs(template.FuncMap{
		"clean": report.Clean, "line": oneLine, "paragraphs": paragraphs, "took": took, "stamp": stamp, "plural": plural,
	}).Parse(pageText))
)

// policy is the page's Content-Security-Policy. The one script is allowed by its hash, so nothing that a lab printed can run.
func policy() string {
	sum := sha256.Sum256([]byte(scriptText))
	return "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; script-src 'sha256-" +
		base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// document is what the template shows.
type document struct {
	Title   string
	Policy  string
	Style   template.CSS
	Script  template.HTML
	Icon    template.URL
	Runs    []runView
	Several bool
	Good    bool
	Summary string
}

// Write writes the page of one run.
func Write(w io.Writer, r report.Run) error { return WriteAll(w, []report.Run{r}) }

// WriteAll writes one page of several runs: an overview, and each run below it, those that passed folded. No runs are a page that says so,
// and that it is no success.
func WriteAll(w io.Writer, runs []report.Run) error {
	d := document{
		Policy: policy(), Style: template.CSS(styleText), Script: template.HTML("<script>" + scriptText + "</script>"),
	}
	for i, r := range report.Begun(runs) {
		d.Runs = append(d.Runs, viewRun(fmt.Sprintf("r%d", i+1), r))
	}
	d.Several = len(runs) != 1 || len(d.Runs) != 1
	tally := report.TallyOf(runs)
	d.Good = tally.Runs > 0 && tally.Passed == tally.Runs
	d.Summary = tally.String()
	if len(runs) == 0 {
		d.Summary = "No scenario was run"
	}
	d.Title = d.Summary
	if len(runs) == 1 && len(d.Runs) == 1 {
		d.Title = d.Runs[0].Title + " · " + strings.ToLower(d.Runs[0].Verdict.Word)
	}
	d.Icon = icon(d.Good)
	if err := page.Execute(w, d); err != nil {
		return fmt.Errorf("write the HTML report of %s: %w", plural(len(runs), "run"), err)
	}
	return nil
}

// icon is the page's icon in the browser: a tick or a cross.
func icon(good bool) template.URL {
	color, path := "%23cf222e", "M10 10L22 22M22 10L10 22"
	if good {
		color, path = "%231a7f37", "M9 17L14 22L23 11"
	}
	return template.URL("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Crect width='32' height='32' rx='8' fill='" + color +
		"'/%3E%3Cpath d='" + path + "' stroke='white' stroke-width='4' fill='none' stroke-linecap='round'/%3E%3C/svg%3E")
}
