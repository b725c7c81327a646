package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/report"
)

// logLines is how many lines of a log a report shows.
const logLines = 60

// logs takes the ends of all logs into the report.
func logs(ctx context.Context, l *lab.Lab, run *report.Run) error {
	if err := l.CollectLogs(ctx); err != nil {
		return fmt.Errorf("collect the logs: %w", err)
	}
	names, err := l.LogNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(l.Dir().Logs(), name+".log"))
		if err != nil {
			return err
		}
		lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
		if text := strings.Join(lines[max(0, len(lines)-logLines):], "\n"); text != "" {
			run.Logs = append(run.Logs, report.Log{Name: name, Text: text})
		}
	}
	return nil
}

// logLines counts the lines of a log that have what is looked for.
func (r *runner) logLines(ctx context.Context, w Condition) (bool, string) {
	data, err := r.lab.Log(ctx, w.Log)
	if err != nil {
		return false, err.Error()
	}
	count, last := 0, ""
	for line := range strings.Lines(string(data)) {
		if found(w.Output, line) {
			count, last = count+1, strings.TrimSpace(line)
		}
	}
	if count == 0 {
		return false, "no line has that"
	}
	return count >= max(1, w.More), fmt.Sprintf("%s; the last one: %s", plural(count, "line"), clip(last))
}
