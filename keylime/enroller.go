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
	Parallel int       // commands at the same time; default 4: each mostly waits for the network and the TPM
	Start    StartFunc // starts the process where the tenant shall be, e.g. in a network namespace; default: as a child of this process
	Stderr   io.Writer // what Keylime prints while it is imported; default: kept for errors only
}

// Enroller is one long-lived Python process that runs Keylime's own tenant, by its own main function, once for each request, in a fork.
// It saves the second or so that `keylime_tenant` takes to be imported; all else is the same: the same arguments, configuration, checks and log.
// Its methods may be called from several goroutines at once.
type Enroller struct {
	conf     *Configured
	process  Process
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
		opts.Start = func(c Command, std Stdio) (Process, error) { return StartCmd(c.Exec(context.Background()), std) }
	}
	script := filepath.Join(c.Dir, "enroll.py")
	if err := atomicfile.Write(script, enrollScript, 0o600); err != nil {
		return nil, fmt.Errorf("enroller: %w", err)
	}
	command := c.command("tenant", script, strconv.Itoa(opts.Parallel))
	command.Name = "enroller"
	e := &Enroller{conf: c, ready: make(chan struct{}), ended: make(chan struct{}), pending: map[int]chan scriptReply{}}
	var ours, theirs [3]*os.File // its standard input, output and error
	for n := range ours {
		r, w, err := os.Pipe()
		if err != nil {
			closeFiles(append(ours[:n], theirs[:n]...))
			return nil, fmt.Errorf("enroller: %w", err)
		}
		if ours[n], theirs[n] = r, w; n == 0 {
			ours[n], theirs[n] = w, r
		}
	}
	process, err := opts.Start(command, Stdio{In: theirs[0], Out: theirs[1], Err: theirs[2]})
	closeFiles(theirs[:])
	if err != nil {
		closeFiles(ours[:])
		return nil, fmt.Errorf("start the enroller (%s): %w", strings.Join(command.Argv, " "), err)
	}
	e.process, e.stdin = process, ours[0]
	said := make(chan struct{})
	go func() {
		defer close(said)
		defer ours[2].Close()
		to := io.Writer(&e.stderr)
		if opts.Stderr != nil {
			to = io.MultiWriter(to, opts.Stderr)
		}
		io.Copy(to, ours[2])
	}()
	stop := context.AfterFunc(ctx, func() { SignalGroup(process.Pid(), syscall.SIGKILL) })
	go func() {
		defer stop()
		defer ours[1].Close()
		e.readReplies(ours[1], said)
	}()
	return e, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// readReplies hands each reply to the request that waits for it, until the process ends. said is closed when all is read that it wrote as errors.
func (e *Enroller) readReplies(stdout io.Reader, said <-chan struct{}) {
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
		SignalGroup(e.process.Pid(), syscall.SIGKILL) // what it writes makes no sense; Wait must not wait for it
	}
	err := e.process.Wait()
	<-said
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
		if err := SignalGroup(e.process.Pid(), syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
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
