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
	files, err := filepath.Glob(filepath.Join(l.Dir().Logs(), "*.log"))
	if err != nil {
		return err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
		if text := strings.Join(lines[max(0, len(lines)-logLines):], "\n"); text != "" {
			run.Logs = append(run.Logs, report.Log{Name: strings.TrimSuffix(filepath.Base(file), ".log"), Text: text})
		}
	}
	return nil
}
