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
	Message  string    `json:"message"`           // the verifier's, for agent.ParseNotice
	Problem  string    `json:"problem,omitempty"` // why it is not to be trusted
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
		list = append(list, n)
	}
	return list, nil
}

// notebook notes notices in a folder.
type notebook struct {
	mu  sync.Mutex
	dir string
}

func (b *notebook) note(received time.Time, r agent.Revocation) error {
	n := Notice{Received: received, Message: r.Message}
	if r.Problem != nil {
		n.Problem = r.Problem.Error()
	}
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
