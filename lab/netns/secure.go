package netns

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/verify"
)

// secureDir is where the node's agent keeps what must not be on a disk: the Rust agent has it at <KEYLIME_DIR>/secure.
func (n *node) secureDir() string { return filepath.Join(n.s.dir.Agent(n.Name), "secure") }

// mountSecure gives the node its tmpfs, as large as the Rust agent would make it (secure_size). It is the machine's memory: it outlives the agent, not the
// machine. Only the lab's own mount namespace has it, so it is gone with the lab.
func (n *node) mountSecure() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.secure {
		return nil
	}
	if err := os.MkdirAll(n.secureDir(), 0o700); err != nil {
		return fmt.Errorf("make the agent's folder: %w", err)
	}
	if err := unix.Mount("secure", n.secureDir(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700,size=1m"); err != nil {
		return fmt.Errorf("mount a tmpfs at %s: %w", n.secureDir(), err)
	}
	n.secure = true
	return nil
}

// unmountSecure empties the machine's memory; it is no error when there is none. Its files are deleted too: programs of other hosts that were started
// while it was mounted have copies of the mount (package sandbox), which would keep them.
func (n *node) unmountSecure() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.secure {
		return nil
	}
	entries, err := os.ReadDir(n.secureDir())
	if err != nil {
		return fmt.Errorf("empty the agent's tmpfs: %w", err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(n.secureDir(), e.Name())); err != nil {
			return fmt.Errorf("empty the agent's tmpfs: %w", err)
		}
	}
	if err := unix.Unmount(n.secureDir(), unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the agent's tmpfs: %w", err)
	}
	n.secure = false
	return nil
}

// payload is what was meant for the node, and what is in its memory.
func (n *node) payload(context.Context) (verify.Payload, error) {
	found, err := agent.FindPayload(n.secureDir(), fleet.PayloadFile(n.s.dir, n.s.plan))
	if err != nil {
		return verify.Payload{}, err
	}
	return fleet.Payload(n.s.dir, n.Node, found)
}

// extract is the agent's option extract_payload_zip.
func (n *node) extract() bool {
	return n.s.plan.PayloadPackaged() || n.Payload != nil && n.Payload.Autorun
}

// script is the agent's option payload_script: "" runs nothing.
func (n *node) script() string {
	if n.Payload != nil && n.Payload.Autorun {
		return plan.PayloadScript
	}
	return ""
}
