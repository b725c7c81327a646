package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/plan"
)

// start is one start of something: how long until it was ready, and what that cost.
type start struct {
	wall, cpu time.Duration
}

// readyTimeout bounds the start of the services alone.
const readyTimeout = 2 * time.Minute

// startServices starts the plan's registrar and verifier, by the same installation and with the same configuration, but without a
// lab: on this machine's loopback, at free ports. Both are started at once. The time counts from the first start until both answer
// on every port; making certificates and configuration is not part of it. Everything has ended when it returns.
func startServices(ctx context.Context, p plan.Plan, cache, dir string) (start, error) {
	k := p.Keylime
	installation, err := keylime.EnsureInstalled(ctx, keylime.InstallOptions{Version: k.Version, CacheDir: cache})
	if err != nil {
		return start{}, err
	}
	pki, err := keylime.CreatePKI(filepath.Join(dir, "pki"), keylime.PKIOptions{})
	if err != nil {
		return start{}, err
	}
	ports, err := freePorts(3)
	if err != nil {
		return start{}, err
	}
	configured, err := keylime.WriteConfig(ctx, keylime.Config{
		Dir: filepath.Join(dir, "keylime"), PKI: pki, Installation: installation,
		RegistrarPort: ports[0], RegistrarTLSPort: ports[1], VerifierPort: ports[2],
		Mode: k.Mode, QuoteInterval: time.Duration(k.QuoteInterval), SkipEKCert: !k.RequireEKCert,
		VerifierWorkers: k.VerifierWorkers, RegistrarWorkers: k.RegistrarWorkers, Overrides: k.Options,
	})
	if err != nil {
		return start{}, err
	}
	return timeServices(ctx, []keylime.Command{configured.Registrar(), configured.Verifier()}, dir)
}

func timeServices(ctx context.Context, commands []keylime.Command, dir string) (s start, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("the Keylime services did not answer within %s", readyTimeout))
	defer cancel()
	began := time.Now()
	var running []*service
	defer func() {
		for _, r := range running {
			err = errors.Join(err, r.stop())
		}
	}()
	for _, c := range commands {
		r, err := launch(c, filepath.Join(dir, c.Name+".log"))
		if err != nil {
			return start{}, err
		}
		running = append(running, r)
	}
	var all errgroup.Group
	for i, c := range commands {
		all.Go(func() error { return running[i].awaitReady(ctx, c) })
	}
	if err := all.Wait(); err != nil {
		return start{}, err
	}
	s.wall = time.Since(began)
	for _, r := range running {
		cpu, err := cpuTime(r.cmd.Process.Pid)
		if err != nil {
			return start{}, err
		}
		s.cpu += cpu
	}
	return s, nil
}

// service is one of Keylime's services, running outside any lab.
type service struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error // once done is closed
}

func launch(c keylime.Command, log string) (*service, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of the %s: %w", c.Name, err)
	}
	defer out.Close()
	s := &service{cmd: c.Exec(context.Background()), log: log, done: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = out, out
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the %s (%s): %w", c.Name, strings.Join(c.Argv, " "), err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	return s, nil
}

func (s *service) awaitReady(ctx context.Context, c keylime.Command) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answered := make(chan error, 1)
	go func() { answered <- c.Ready(ctx, nil) }()
	select {
	case err := <-answered:
		return err
	case <-s.done:
		text, err := os.ReadFile(s.log)
		return fmt.Errorf("the %s ended before it answered: %w\ncommand: %s\noutput:\n%s", c.Name, errors.Join(s.err, err), strings.Join(c.Argv, " "), text)
	}
}

// stop ends the service by force: it holds nothing worth keeping, and its orderly end is not measured.
func (s *service) stop() error {
	if err := keylime.SignalGroup(s.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.done
	return nil
}

// freePorts finds ports of the loopback on which nobody listens now.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer l.Close() // held until all are found, so that they differ
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
