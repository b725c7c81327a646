// Package files writes all reports of runs, and of the checks of a lab, into folders: what `keylab run` and `keylab verify --report` leave, and what tests keep
// of their scenarios.
package files

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"keylab.dev/keylab/report"
	"keylab.dev/keylab/report/html"
)

// The files of a report. JSON and history are of one run; the others also of several together.
const (
	HTML     = "report.html"
	JSON     = "report.json"
	History  = "history.jsonl"
	JUnit    = "junit.xml"
	Markdown = "summary.md"
)

// WriteRun writes all reports of one run into dir, which it makes, and returns the path of the one for people.
func WriteRun(dir string, r report.Run) (string, error) {
	one := []report.Run{r}
	err := write(dir, map[string]func(io.Writer) error{
		HTML:     func(w io.Writer) error { return html.Write(w, r) },
		JSON:     func(w io.Writer) error { return report.WriteRunJSON(w, r) },
		History:  func(w io.Writer) error { return report.WriteHistory(w, r) },
		JUnit:    func(w io.Writer) error { return report.WriteRunJUnit(w, one) },
		Markdown: func(w io.Writer) error { return report.WriteRunMarkdown(w, one) },
	})
	return filepath.Join(dir, HTML), err
}

// WriteRuns writes the reports of several runs together into dir, which it makes.
func WriteRuns(dir string, runs []report.Run) error {
	return write(dir, map[string]func(io.Writer) error{
		HTML:     func(w io.Writer) error { return html.WriteAll(w, runs) },
		JUnit:    func(w io.Writer) error { return report.WriteRunJUnit(w, runs) },
		Markdown: func(w io.Writer) error { return report.WriteRunMarkdown(w, runs) },
	})
}

// WriteResult writes what `keylab verify` found into dir, which it makes: JSON, JUnit and Markdown.
func WriteResult(dir string, r report.Result) error {
	return write(dir, map[string]func(io.Writer) error{
		JSON:     func(w io.Writer) error { return report.WriteJSON(w, r) },
		JUnit:    func(w io.Writer) error { return report.WriteJUnit(w, r) },
		Markdown: func(w io.Writer) error { return report.WriteMarkdown(w, r) },
	})
}

func write(dir string, files map[string]func(io.Writer) error) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the report's folder: %w", err)
	}
	for name, write := range files {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
		if err := write(f); err != nil {
			f.Close()
			return fmt.Errorf("write the report %s: %w", f.Name(), err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	return nil
}
