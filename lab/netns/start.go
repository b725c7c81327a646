package netns

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"keylab.dev/keylab/lab/netns/sandbox"
	"keylab.dev/keylab/lab/state"
	"keylab.dev/keylab/netlab"
)

// Handoff is what `up` tells the supervisor, beside the plan in the lab's folder.
type Handoff struct {
	Dir    state.Dir `json:"dir"`
	Cache  string    `json:"cache"`
	Retain bool      `json:"retain"` // leave a lab that failed to start as it is
	First  bool      `json:"first"`  // the lab's folder is new: after a failure only its logs are kept
}

// Roles are this substrate's parts in its sandbox, for sandbox.Main.
func Roles() sandbox.Roles {
	return sandbox.Roles{
		Supervise: Supervise,
		Test:      func(ctx context.Context) error { return netlab.SelfTest(ctx, sandbox.NamespaceDir) },
	}
}

// Descriptors that the supervisor inherits.
const (
	fileControl = iota // the control socket, bound
	fileLeash          // the pipe to `up`
)

// Starting is a lab whose supervisor has been started and is still on the leash: if this process ends, or Abort is
// called, before Release, the lab undoes what it has done and ends.
type Starting struct {
	*sandbox.Process
	leash *os.File
}

// Start starts the supervisor of the lab in h.Dir, with the control socket that control.Reserve gave.
func Start(h Handoff, socket *os.File) (*Starting, error) {
	log, err := os.OpenFile(h.Dir.Log("supervisor"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the supervisor's log: %w", err)
	}
	defer log.Close()
	// O_CLOEXEC: no other child may hold the writing end, or the leash would outlive this process.
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make the pipe to the supervisor: %w", err)
	}
	far, near := os.NewFile(uintptr(ends[0]), "leash"), os.NewFile(uintptr(ends[1]), "leash")
	defer far.Close()
	handoff, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode the supervisor's orders: %w", err)
	}
	p, err := sandbox.Start(sandbox.Config{Lab: h.Dir.Lab, Args: []string{string(handoff)}, Files: []*os.File{socket, far}, Log: log})
	if err != nil {
		near.Close()
		return nil, err
	}
	return &Starting{Process: p, leash: near}, nil
}

// Release lets the lab live on without this process.
func (s *Starting) Release() error {
	defer s.leash.Close()
	if _, err := s.leash.Write([]byte{leashReleased}); err != nil {
		return fmt.Errorf("tell the lab's supervisor to stay: %w", err)
	}
	return nil
}

// Abort makes the lab undo what it has done and end. Wait for Done.
func (s *Starting) Abort() { s.leash.Close() }

const leashReleased = 'r'

// watchLeash calls abort when `up` ends or gives up before it released the lab.
func watchLeash(leash *os.File, abort func()) {
	defer leash.Close()
	var b [1]byte
	if n, err := leash.Read(b[:]); n == 1 && err == nil && b[0] == leashReleased {
		return
	}
	abort()
}
