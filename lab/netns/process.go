package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
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
	cmd  *exec.Cmd
	done chan struct{}
	mu   sync.Mutex // of how
	err  error      // once done is closed
	how  proof.End  // once stop or kill was called
	from int64      // where its own output begins in the log file
}

// startProcess starts a program on a host. It lives until stop, or until the sandbox ends.
func startProcess(lab, host string, c keylime.Command, log string) (*process, error) {
	out, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", c.Name, err)
	}
	defer out.Close()
	p := &process{name: c.Name, argv: c.Argv, log: log, done: make(chan struct{})}
	if info, err := out.Stat(); err == nil {
		p.from = info.Size()
	}
	p.cmd = c.Exec(context.Background())
	sandbox.On(p.cmd, lab, host)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s (%s): %w", c.Name, strings.Join(c.Argv, " "), err)
	}
	go func() {
		p.err = p.cmd.Wait()
		// Workers that outlive their main process would go on serving a service that is dead to whoever looks.
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		close(p.done)
	}()
	return p, nil
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
	group := -p.cmd.Process.Pid
	p.mark(proof.EndStopped)
	_ = syscall.Kill(group, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	select {
	case <-p.done:
	case <-ctx.Done():
	}
	_ = syscall.Kill(group, syscall.SIGKILL)
	<-p.done
	return nil
}

// kill ends the program and its children at once.
func (p *process) kill() {
	p.mark(proof.EndKilled)
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
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
	f := proof.Process{Running: p.alive(), ID: strconv.Itoa(p.cmd.Process.Pid)}
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
