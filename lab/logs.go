package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// LogNames are the components and nodes that have a log, once CollectLogs has fetched them.
func (l *Lab) LogNames() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(l.dir.Logs(), "*.log"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(filepath.Base(f), ".log"))
	}
	slices.Sort(names)
	return names, nil
}

// Log is the log of a component (registrar, verifier, …) or of a node's agent, of the lab's last run.
func (l *Lab) Log(ctx context.Context, name string) ([]byte, error) {
	if err := l.CollectLogs(ctx); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(l.dir.Logs(), filepath.Base(name)+".log"))
	if errors.Is(err, fs.ErrNotExist) {
		names, _ := l.LogNames()
		return nil, fmt.Errorf("there is no log of %q; there are %s", name, strings.Join(names, ", "))
	}
	return data, err
}
