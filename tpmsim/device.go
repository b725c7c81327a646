package tpmsim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopGrace is how long a child may take to end by itself after the end of its command stream.
const stopGrace = 5 * time.Second

// startLimit is how long the first answer may take; it takes milliseconds on an idle machine.
const startLimit = 60 * time.Second

// device is a powered TPM: a child process that answers raw TPM commands on a socket pair.
type device struct {
	cmd    *exec.Cmd
	conn   net.Conn
	output *tail
	done   chan struct{} // closed when the process has ended and its output has been read
	exit   error         // how it ended; valid once done is closed
}

// startDevice runs cmd with its end of the command stream as file descriptor 3 and returns at once; whether the TPM came up
// shows at the first command.
func startDevice(cmd *exec.Cmd, log io.Writer) (*device, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("tpmsim: making a socket pair for %s: %w", cmd.Path, err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "tpm"), os.NewFile(uintptr(fds[1]), "tpm-child")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, fmt.Errorf("tpmsim: using the socket pair for %s: %w", cmd.Path, err)
	}
	d := &device{cmd: cmd, conn: conn, output: &tail{log: log}, done: make(chan struct{})}
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stdout, cmd.Stderr = d.output, d.output
	// Ctrl-C goes to the whole process group of the terminal; the TPM must live on to be shut down in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A grandchild that keeps the output open must not keep Wait.
	cmd.WaitDelay = stopGrace
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("tpmsim: starting %q: %w", cmd.Args, err)
	}
	go func() {
		d.exit = cmd.Wait()
		close(d.done)
	}()
	return d, nil
}

// transact sends one command and reads its response. It is not safe for concurrent use.
func (d *device) transact(command []byte) ([]byte, error) {
	if _, err := d.conn.Write(command); err != nil {
		return nil, d.failure(err)
	}
	response, err := readMessage(d.conn)
	if err != nil {
		return nil, d.failure(err)
	}
	return response, nil
}

// first sends the first command after the start. A child that does not answer within ctx or startLimit is killed.
func (d *device) first(ctx context.Context, command []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("no answer within %v of the start", startLimit))
	defer cancel()
	unwatch := context.AfterFunc(ctx, func() { _ = d.kill() })
	defer unwatch()
	response, err := d.transact(command)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return response, err
}

// failure explains a broken command stream by the end of the process, if that is the reason.
func (d *device) failure(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		// The end of the stream comes a moment before the process can be waited for.
		select {
		case <-d.done:
			return d.ended()
		case <-time.After(stopGrace):
		}
	}
	return fmt.Errorf("tpmsim: command stream to pid %d (%q): %w", d.pid(), d.cmd.Args, err)
}

// ended describes the end of the process; only valid once done is closed.
func (d *device) ended() error {
	how := "exit status 0"
	if d.exit != nil {
		how = d.exit.Error()
	}
	return &ProcessError{PID: d.pid(), Argv: d.cmd.Args, Status: how, Output: d.output.String()}
}

func (d *device) pid() int { return d.cmd.Process.Pid }

// stop ends the child by ending its command stream, and kills it if that does not help; nothing is lost then, for the state
// is on disk before each answer.
func (d *device) stop() error {
	d.conn.Close()
	select {
	case <-d.done:
		return nil
	case <-time.After(stopGrace):
	}
	fmt.Fprintf(d.output, "tpmsim: pid %d is killed: it did not end within %v of the end of its command stream\n", d.pid(), stopGrace)
	return d.kill()
}

// kill ends the child at once and waits until it is gone.
func (d *device) kill() error {
	if err := d.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("tpmsim: killing pid %d: %w", d.pid(), err)
	}
	<-d.done
	d.conn.Close()
	return nil
}

// ProcessError tells that the process behind a TPM has ended.
type ProcessError struct {
	PID    int
	Argv   []string
	Status string // as os.ProcessState prints it, such as "signal: killed"
	Output string // the last lines that it printed
}

func (e *ProcessError) Error() string {
	text := fmt.Sprintf("tpmsim: the TPM's process %d (%s) has ended: %s", e.PID, strings.Join(e.Argv, " "), e.Status)
	if out := strings.TrimSpace(e.Output); out != "" {
		text += "; its last output: " + out
	}
	if strings.Contains(e.Output, "Permission denied") {
		text += "; if the state directory has the right owner, a profile of AppArmor or SELinux for this program may forbid it: " +
			"use another directory (below /tmp or the home directory) or amend the profile"
	}
	return text
}

// readMessage reads one command or response: both start with tag (2 bytes), total size (4 bytes) and code (4 bytes),
// big-endian (TPM 2.0 Library, Part 1, section 18.2).
func readMessage(r io.Reader) ([]byte, error) {
	header := make([]byte, headerSize, 256)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[2:])
	if size < headerSize || size > maxMessage {
		return nil, &sizeError{size}
	}
	message := append(header, make([]byte, size-headerSize)...)
	if _, err := io.ReadFull(r, message[headerSize:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return message, nil
}

// sizeError is a length field that no message can have; the rest of the stream cannot be understood after it.
type sizeError struct{ size uint32 }

func (e *sizeError) Error() string {
	return fmt.Sprintf("message of %d bytes announced; the least is %d and the most is %d", e.size, headerSize, maxMessage)
}

// tail keeps the end of a child's output and passes all of it on.
type tail struct {
	mu   sync.Mutex
	kept []byte
	log  io.Writer
}

const tailSize = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - tailSize; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	if t.log != nil {
		// A log that cannot be written is no reason to stop reading what the child says.
		_, _ = t.log.Write(p)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}
