package keylime

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"keylab.dev/keylab/internal/atomicfile"
)

//go:embed enroll.py
var enrollScript []byte

// EnrollerOptions says how to run the enroller.
type EnrollerOptions struct {
	Parallel int                   // commands at the same time; default 4: each mostly waits for the network and the TPM
	Start    func(*exec.Cmd) error // starts the process where the tenant shall be, e.g. in a network namespace; default cmd.Start
	Stderr   io.Writer             // what Keylime prints while it is imported; default: kept for errors only
}

// Enroller is one long-lived Python process that runs Keylime's own tenant, by its own main function, once for each request, in a fork.
// It saves the second or so that `keylime_tenant` takes to be imported; all else is the same: the same arguments, configuration, checks and log.
// Its methods may be called from several goroutines at once.
type Enroller struct {
	conf     *Configured
	cmd      *exec.Cmd
	ready    chan struct{} // closed when Keylime is imported
	ended    chan struct{} // closed when the process has ended
	imported time.Duration
	stderr   tailBuffer

	mu      sync.Mutex
	stdin   io.WriteCloser
	nextID  int
	pending map[int]chan scriptReply
	err     error // why it ended
}

// scriptReply is a line that the script writes.
type scriptReply struct {
	Ready   bool    `json:"ready"`
	ID      int     `json:"id"`
	Code    int     `json:"code"`
	Output  string  `json:"output"`
	Seconds float64 `json:"seconds"`
}

// ErrEnrollerEnded is in the chain of errors about an enroller process that is no more.
var ErrEnrollerEnded = errors.New("the enroller process has ended")

// StartEnroller starts the process and returns at once: Keylime is imported while the caller goes on starting the services. ctx bounds the life
// of the process. The first request waits for the import.
func StartEnroller(ctx context.Context, c *Configured, opts EnrollerOptions) (*Enroller, error) {
	if opts.Parallel <= 0 {
		opts.Parallel = 4
	}
	if opts.Start == nil {
		opts.Start = (*exec.Cmd).Start
	}
	script := filepath.Join(c.Dir, "enroll.py")
	if err := atomicfile.Write(script, enrollScript, 0o600); err != nil {
		return nil, fmt.Errorf("enroller: %w", err)
	}
	command := c.command("tenant", script, strconv.Itoa(opts.Parallel))
	command.Name = "enroller"
	e := &Enroller{conf: c, cmd: command.Exec(ctx), ready: make(chan struct{}), ended: make(chan struct{}), pending: map[int]chan scriptReply{}}
	// Forks that are under way keep the pipes open; do not wait for them.
	e.cmd.Cancel = func() error { return SignalGroup(e.cmd.Process, syscall.SIGKILL) }
	e.cmd.Stderr = &e.stderr
	if opts.Stderr != nil {
		e.cmd.Stderr = io.MultiWriter(&e.stderr, opts.Stderr)
	}
	stdin, err := e.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("enroller: %w", err)
	}
	stdout, err := e.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("enroller: %w", err)
	}
	e.stdin = stdin
	if err := opts.Start(e.cmd); err != nil {
		return nil, fmt.Errorf("start the enroller (%s): %w", strings.Join(e.cmd.Args, " "), err)
	}
	go e.readReplies(stdout)
	return e, nil
}

// readReplies hands each reply to the request that waits for it, until the process ends.
func (e *Enroller) readReplies(stdout io.Reader) {
	dec := json.NewDecoder(bufio.NewReader(stdout))
	var readErr error
	for {
		var r scriptReply
		if readErr = dec.Decode(&r); readErr != nil {
			break
		}
		if r.Ready {
			e.imported = time.Duration(r.Seconds * float64(time.Second))
			close(e.ready)
			continue
		}
		e.mu.Lock()
		ch := e.pending[r.ID]
		delete(e.pending, r.ID)
		e.mu.Unlock()
		if ch != nil {
			ch <- r
		}
	}
	if !errors.Is(readErr, io.EOF) {
		SignalGroup(e.cmd.Process, syscall.SIGKILL) // what it writes makes no sense; Wait must not wait for it
	}
	err := e.cmd.Wait()
	switch {
	case err != nil:
		err = fmt.Errorf("%w: %w\n%s", ErrEnrollerEnded, err, indent(e.stderr.String()))
	case !errors.Is(readErr, io.EOF):
		err = fmt.Errorf("%w: its answer makes no sense: %w", ErrEnrollerEnded, readErr)
	default:
		err = ErrEnrollerEnded
	}
	e.mu.Lock()
	e.err = err
	e.mu.Unlock()
	close(e.ended)
}

// Ready waits until Keylime is imported, and returns how long that took.
func (e *Enroller) Ready(ctx context.Context) (time.Duration, error) {
	select {
	case <-e.ready:
		return e.imported, nil
	default:
	}
	select {
	case <-e.ready:
		return e.imported, nil
	case <-e.ended:
		return 0, e.endError()
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for the enroller to import Keylime: %w", context.Cause(ctx))
	}
}

func (e *Enroller) endError() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// Run runs `keylime_tenant args...` and returns what it printed. A command that fails is no error here: see [Result].
// When ctx ends the command is killed.
func (e *Enroller) Run(ctx context.Context, args ...string) (*Result, error) {
	if _, err := e.Ready(ctx); err != nil {
		return nil, err
	}
	reply := make(chan scriptReply, 1)
	e.mu.Lock()
	e.nextID++
	id := e.nextID
	e.pending[id] = reply
	err := e.send(map[string]any{"id": id, "argv": args})
	e.mu.Unlock()
	if err != nil {
		e.forget(id)
		select {
		case <-e.ended:
			return nil, e.endError()
		default:
		}
		return nil, fmt.Errorf("enroller: send request: %w", err)
	}
	select {
	case r := <-reply:
		return newResult(args, r), nil
	case <-e.ended:
		e.forget(id)
		return nil, fmt.Errorf("keylime_tenant %s: %w", strings.Join(args, " "), e.endError())
	case <-ctx.Done():
		e.forget(id)
		e.mu.Lock()
		e.send(map[string]any{"cancel": id}) // if this fails the process is dead anyhow
		e.mu.Unlock()
		return nil, fmt.Errorf("keylime_tenant %s: %w", strings.Join(args, " "), context.Cause(ctx))
	}
}

// send writes one line; e.mu must be held.
func (e *Enroller) send(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = e.stdin.Write(append(line, '\n'))
	return err
}

func (e *Enroller) forget(id int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.pending, id)
}

// Close lets commands that are under way finish, then ends the process. When ctx ends first the process is killed, commands and all.
func (e *Enroller) Close(ctx context.Context) error {
	e.mu.Lock()
	e.stdin.Close()
	e.mu.Unlock()
	select {
	case <-e.ended:
	case <-ctx.Done():
		if err := SignalGroup(e.cmd.Process, syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("enroller: %w", err)
		}
		<-e.ended
	}
	if err := e.endError(); err != ErrEnrollerEnded { // anything beyond the bare fact that it has ended
		return err
	}
	return nil
}

// tailBuffer keeps the last few kilobytes written to it.
type tailBuffer struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	const limit = 8192
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > limit {
		t.buf = append([]byte(nil), t.buf[len(t.buf)-limit:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
