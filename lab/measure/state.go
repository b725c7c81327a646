package measure

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"keylab.dev/keylab/internal/atomicfile"
)

// saved is what outlasts this program.
type saved struct {
	Firmware string `json:"firmware"`         // version
	Tamper   string `json:"tamper,omitempty"` // of the next boot
}

// load reads what an earlier Node with the same StateFile has saved. It is called before anybody else has n.
func (n *Node) load() error {
	if n.opts.StateFile == "" {
		return nil
	}
	data, err := os.ReadFile(n.opts.StateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var s saved
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		return fmt.Errorf("read what the node's firmware is, %s: %w", n.opts.StateFile, err)
	}
	if s.Firmware != n.machine.Firmware.Version {
		n.machine = n.machine.FirmwareUpdate(s.Firmware)
	}
	n.pending = s.Tamper
	return nil
}

// save keeps it. n.mu is held.
func (n *Node) save() error {
	if n.opts.StateFile == "" {
		return nil
	}
	data, err := json.Marshal(saved{n.machine.Firmware.Version, n.pending})
	if err != nil {
		return fmt.Errorf("encode what the node's firmware is: %w", err)
	}
	return atomicfile.Write(n.opts.StateFile, append(data, '\n'), 0o600)
}
