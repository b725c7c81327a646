package keylime

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"keylab.dev/keylab/internal/atomicfile"
)

//go:embed forkserver.py
var forkServerScript []byte

// ForkServer is a Python process which has imported the libraries that Keylime's programs use, and forks to become any of them. Importing takes each
// of them about a second of processor time, three quarters of which are the libraries' and so are spent once for a lab. Keylime itself is imported by each program
// for itself, under its own environment, and runs by its own main function: nothing of it is changed or shared.
// Its methods may be called from several goroutines at once.
type ForkServer struct {
	installation *Installation
	process      Process
	conn         *net.UnixConn
	stderr       tailBuffer
	ended        chan struct{}

	mu    sync.Mutex
	next  int
	forks map[int]*fork // those that run, or are to
	err   error         // why the server has ended
}

// ErrForkServerEnded is in the chain of errors about a fork server that is no more, and of the ends of programs that ended with it.
var ErrForkServerEnded = errors.New("the fork server has ended")

// forkRequest and forkAnswer are the messages of forkserver.py.
type forkRequest struct {
	ID   int               `json:"id"`
	Argv []string          `json:"argv"`
	Env  map[string]string `json:"env"`
	Dir  string            `json:"dir"`
}

type forkAnswer struct {
	ID   int  `json:"id"`
	Pid  int  `json:"pid"`
	Code *int `json:"code"` // as of Python's os.waitstatus_to_exitcode
}

// StartForkServer starts the server, with its script in dir, and returns at once: requests wait until the libraries are imported. It lives until Close.
func StartForkServer(i *Installation, dir string) (*ForkServer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("fork server: %w", err)
	}
	script := filepath.Join(dir, "forkserver.py")
	if err := atomicfile.Write(script, forkServerScript, 0o600); err != nil {
		return nil, fmt.Errorf("fork server: %w", err)
	}
	near, far, err := packetPair()
	if err != nil {
		return nil, fmt.Errorf("fork server: %w", err)
	}
	defer far.Close()
	f := &ForkServer{installation: i, conn: near, ended: make(chan struct{}), forks: map[int]*fork{}}
	cmd := exec.Command(i.Python, script, i.Libraries)
	cmd.Env, cmd.Dir, cmd.ExtraFiles = pythonEnv(), dir, []*os.File{far}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = &f.stderr
	if f.process, err = StartCmd(cmd, Stdio{}); err != nil {
		near.Close()
		return nil, fmt.Errorf("start the fork server (%s): %w", strings.Join(cmd.Args, " "), err)
	}
	go f.readAnswers()
	return f, nil
}

// packetPair is a pair of sockets that keep the borders of messages: one for here, and one to hand on.
func packetPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	here, far := os.NewFile(uintptr(fds[0]), "fork server"), os.NewFile(uintptr(fds[1]), "fork server's end")
	defer here.Close()
	conn, err := net.FileConn(here)
	if err != nil {
		far.Close()
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	return conn.(*net.UnixConn), far, nil
}

// Start has the server become a command of its installation, with these files (nil ones are the server's own: the null device), in these namespaces and
// otherwise in those of the server. It returns when the program has begun.
func (f *ForkServer) Start(c Command, std Stdio, namespaces ...*os.File) (Process, error) {
	if len(c.Argv) < 2 || c.Argv[0] != f.installation.Python {
		return nil, fmt.Errorf("fork server: %s is no program of %s", strings.Join(c.Argv, " "), f.installation.Python)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("fork server: %w", err)
	}
	defer null.Close()
	var rights []int
	for _, file := range append([]*os.File{std.In, std.Out, std.Err}, namespaces...) {
		if file == nil {
			file = null
		}
		rights = append(rights, int(file.Fd()))
	}
	env := map[string]string{}
	for _, e := range c.Env {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	p := &fork{begun: make(chan struct{}), ended: make(chan struct{})}
	if err := f.request(p, forkRequest{Argv: c.Argv[1:], Env: env, Dir: c.Dir}, unix.UnixRights(rights...)); err != nil {
		return nil, err
	}
	select {
	case <-p.begun:
		return p, nil
	case <-p.ended:
		return nil, p.err
	}
}

func (f *ForkServer) request(p *fork, r forkRequest, rights []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	f.next++
	r.ID = f.next
	message, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("fork server: %w", err)
	}
	if _, _, err := f.conn.WriteMsgUnix(message, rights, nil); err != nil {
		return fmt.Errorf("ask the fork server: %w", err)
	}
	f.forks[r.ID] = p
	return nil
}

// Close ends the server, and with it the programs that it became and that still run.
func (f *ForkServer) Close() error {
	if err := SignalGroup(f.process.Pid(), syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end the fork server: %w", err)
	}
	<-f.ended
	return nil
}

// readAnswers keeps book of the forks, until the server ends; then they end.
func (f *ForkServer) readAnswers() {
	buffer := make([]byte, 4096)
	var bad error
	for {
		n, err := f.conn.Read(buffer)
		if err != nil {
			break // its socket is closed
		}
		var a forkAnswer
		if err := json.Unmarshal(buffer[:n], &a); err != nil {
			bad = fmt.Errorf("its answer makes no sense: %w", err)
			break
		}
		f.heard(a)
	}
	if bad != nil {
		_ = SignalGroup(f.process.Pid(), syscall.SIGKILL)
	}
	err := f.process.Wait()
	f.conn.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = ErrForkServerEnded
	if cause := errors.Join(bad, err); cause != nil {
		f.err = fmt.Errorf("%w: %w\n%s", ErrForkServerEnded, cause, indent(f.stderr.String()))
	}
	for _, p := range f.forks { // nobody would tell of their ends any more
		if p.pid != 0 {
			_ = SignalGroup(p.pid, syscall.SIGKILL)
		}
		p.end(f.err)
	}
	f.forks = nil
	close(f.ended)
}

func (f *ForkServer) heard(a forkAnswer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.forks[a.ID]
	switch {
	case p == nil:
	case a.Code == nil:
		p.pid = a.Pid
		close(p.begun)
	default:
		delete(f.forks, a.ID)
		p.end(exitError(*a.Code))
	}
}

// exitError says how a program ended in the words of [exec.ExitError].
func exitError(code int) error {
	switch {
	case code == 0:
		return nil
	case code < 0:
		return fmt.Errorf("signal: %s", syscall.Signal(-code))
	}
	return fmt.Errorf("exit status %d", code)
}

// fork is a program that the server became.
type fork struct {
	begun, ended chan struct{}
	pid          int   // once it has begun
	err          error // once it has ended
}

func (p *fork) Pid() int { return p.pid }

func (p *fork) Wait() error {
	<-p.ended
	return p.err
}

func (p *fork) end(err error) {
	p.err = err
	close(p.ended)
}
