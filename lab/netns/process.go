package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/netns/sandbox"
	"keylab.dev/keylab/lab/proof"
	"keylab.dev/keylab/lab/state"
)

// stopGrace is how long a process may take to end after SIGTERM.
const stopGrace = 3 * time.Second

// process is a program that runs on one of the lab's hosts, with its output in a log file.
type process struct {
	name string
	argv []string
	log  string
	as   keylime.Process
	done chan struct{}
	mu   sync.Mutex // of how
	err  error      // once done is closed
	how  proof.End  // once stop or kill was called
	from int64      // where its own output begins in the log file
}

// startProcess starts a program on a host, by one of the two ways below. It lives until stop, or until the sandbox ends.
func (s *supervisor) startProcess(host string, c keylime.Command, start keylime.StartFunc) (*process, error) {
	log := s.dir.Log(host)
	out, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", c.Name, err)
	}
	defer out.Close()
	p := &process{name: c.Name, argv: c.Argv, log: log, done: make(chan struct{})}
	if info, err := out.Stat(); err == nil {
		p.from = info.Size()
	}
	if p.as, err = start(c, keylime.Stdio{Out: out, Err: out}); err != nil {
		return nil, fmt.Errorf("start %s (%s): %w", c.Name, strings.Join(c.Argv, " "), err)
	}
	go func() {
		p.err = p.as.Wait()
		// Workers that outlive their main process would go on serving a service that is dead to whoever looks.
		_ = keylime.SignalGroup(p.as.Pid(), syscall.SIGKILL)
		close(p.done)
	}()
	return p, nil
}

// execOn starts programs on a host.
func (s *supervisor) execOn(host string) keylime.StartFunc {
	return func(c keylime.Command, std keylime.Stdio) (keylime.Process, error) {
		cmd := c.Exec(context.Background())
		sandbox.On(cmd, s.plan.Lab, host)
		return keylime.StartCmd(cmd, std)
	}
}

// forkOn starts Keylime's programs on a host, by a process that has their libraries already.
func (s *supervisor) forkOn(host string) keylime.StartFunc {
	return func(c keylime.Command, std keylime.Stdio) (keylime.Process, error) {
		namespaces, err := sandbox.Namespaces(s.plan.Lab, host)
		if err != nil {
			return nil, err
		}
		defer func() {
			for _, f := range namespaces {
				f.Close()
			}
		}()
		s.mu.Lock()
		server := s.forks
		s.mu.Unlock()
		p, err := server.Start(c, std, namespaces...)
		if errors.Is(err, keylime.ErrForkServerEnded) { // somebody has killed it, and the services with it: they must be able to start again
			s.log.Warn("starting without the fork server", "command", c.Name, "error", err)
			return s.execOn(host)(c, std)
		}
		return p, err
	}
}

// alive tells whether the program still runs.
func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop ends the program and its children: SIGTERM, and SIGKILL for what is left after the grace.
func (p *process) stop(ctx context.Context) error {
	p.mark(proof.EndStopped)
	_ = keylime.SignalGroup(p.as.Pid(), syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	select {
	case <-p.done:
	case <-ctx.Done():
	}
	_ = keylime.SignalGroup(p.as.Pid(), syscall.SIGKILL)
	<-p.done
	return nil
}

// kill ends the program and its children at once.
func (p *process) kill() {
	p.mark(proof.EndKilled)
	_ = keylime.SignalGroup(p.as.Pid(), syscall.SIGKILL)
	<-p.done
}

// mark notes that the program is ended on purpose; one that has ended by itself was not.
func (p *process) mark(how proof.End) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.alive() && p.how == "" {
		p.how = how
	}
}

// facts is the program as proofs see it.
func (p *process) facts() proof.Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := proof.Process{Running: p.alive(), ID: strconv.Itoa(p.as.Pid())}
	if !f.Running {
		f.End, f.Detail = p.how, firstLine(p.died())
	}
	return f
}

// died is the error for a program that ended by itself: command, how, and what it printed last.
func (p *process) died() error {
	how := errors.New("exit status 0")
	if p.err != nil {
		how = p.err
	}
	return fmt.Errorf("%s ended: %w\ncommand: %s\nlog %s:\n%s", p.name, how, strings.Join(p.argv, " "), p.log, p.lastOutput())
}

// lastOutput is the end of what the program printed, indented.
func (p *process) lastOutput() string { return state.LogTail(p.log, p.from) }

// awaitReady waits until ready, which waits itself, says that the program answers; it fails at once when the program ends.
func (p *process) awaitReady(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answered := make(chan error, 1)
	go func() { answered <- ready(ctx) }()
	select {
	case <-p.done:
		return p.died()
	case err := <-answered:
		if err != nil {
			return fmt.Errorf("%w\nlog %s:\n%s", err, p.log, p.lastOutput())
		}
		return nil
	}
}
