package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"keylab.dev/keylab/report"
	"keylab.dev/keylab/report/html"
)

// The files of a report. All but the history are for one run, in its folder, and for all of them together, in the folder above.
const (
	fileHTML     = "report.html"
	fileJSON     = "report.json"
	fileHistory  = "history.jsonl"
	fileJUnit    = "junit.xml"
	fileMarkdown = "summary.md"
)

// writeRun writes all reports of one run, and returns the one for people.
func writeRun(dir string, r report.Run) (string, error) {
	one := []report.Run{r}
	err := writeFiles(dir, map[string]func(io.Writer) error{
		fileHTML:     func(w io.Writer) error { return html.Write(w, r) },
		fileJSON:     func(w io.Writer) error { return report.WriteRunJSON(w, r) },
		fileHistory:  func(w io.Writer) error { return report.WriteHistory(w, r) },
		fileJUnit:    func(w io.Writer) error { return report.WriteRunJUnit(w, one) },
		fileMarkdown: func(w io.Writer) error { return report.WriteRunMarkdown(w, one) },
	})
	return filepath.Join(dir, fileHTML), err
}

// writeRuns writes the reports of several runs together.
func writeRuns(dir string, runs []report.Run) error {
	return writeFiles(dir, map[string]func(io.Writer) error{
		fileHTML:     func(w io.Writer) error { return html.WriteAll(w, runs) },
		fileJUnit:    func(w io.Writer) error { return report.WriteRunJUnit(w, runs) },
		fileMarkdown: func(w io.Writer) error { return report.WriteRunMarkdown(w, runs) },
	})
}

func writeFiles(dir string, files map[string]func(io.Writer) error) error {
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
