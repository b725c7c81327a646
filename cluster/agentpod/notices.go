package agentpod

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/internal/atomicfile"
)

// NoticesFile is where, in its folder, an agent notes what the verifier told it of agents that it no longer trusts.
const NoticesFile = "notices.jsonl"

// maxNotices is how many of them it keeps: the last ones.
const maxNotices = 1000

// Notice is one of them.
type Notice struct {
	Received time.Time `json:"received"`
	Number   uint64    `json:"number,omitempty"`  // since the agent was started
	Message  string    `json:"message,omitempty"` // the verifier's, for agent.ParseNotice
	Problem  string    `json:"problem,omitempty"` // why it is not to be trusted
	Actions  []Action  `json:"actions,omitempty"` // that it made the agent run; in the file they have a line of their own, with its number
}

// Action is how a revocation action ended.
type Action struct {
	Name    string `json:"name"`
	Problem string `json:"problem,omitempty"` // why it did not run, or how it failed
}

// ReadNotices reads what is in a NoticesFile.
func ReadNotices(data []byte) ([]Notice, error) {
	var list []Notice
	for _, line := range bytes.Split(data, []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		var n Notice
		if err := json.Unmarshal(line, &n); err != nil {
			return nil, fmt.Errorf("read a notice: %w", err)
		}
		if n.Actions == nil {
			list = append(list, n)
			continue
		}
		for i := len(list) - 1; i >= 0; i-- { // an agent that was started again counts anew
			if list[i].Number == n.Number {
				list[i].Actions = n.Actions
				break
			}
		}
	}
	return list, nil
}

// notebook notes notices in a folder.
type notebook struct {
	mu  sync.Mutex
	dir string
}

func (b *notebook) note(received time.Time, r agent.Revocation) error {
	n := Notice{Received: received, Number: r.Number, Message: r.Message}
	if r.Problem != nil {
		n.Problem = r.Problem.Error()
	}
	return b.add(n)
}

// noteActions notes how the actions of a notice ended.
func (b *notebook) noteActions(ended time.Time, r agent.Revocation, runs []agent.ActionRun) error {
	n := Notice{Received: ended, Number: r.Number}
	for _, run := range runs {
		a := Action{Name: run.Action}
		if run.Problem != nil {
			a.Problem = run.Problem.Error()
		}
		n.Actions = append(n.Actions, a)
	}
	return b.add(n)
}

func (b *notebook) add(n Notice) error {
	line, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("note a notice: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	path := filepath.Join(b.dir, NoticesFile)
	noted, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("note a notice: %w", err)
	}
	lines := bytes.SplitAfter(append(noted, append(line, '\n')...), []byte("\n"))
	lines = lines[:len(lines)-1] // what follows the last line feed
	return atomicfile.Write(path, bytes.Join(lines[max(0, len(lines)-maxNotices):], nil), 0o600)
}
