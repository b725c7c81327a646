package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/netns/sandbox"
	"keylab.dev/keylab/lab/plan"
)

func (s *supervisor) configureKeylime(ctx context.Context) error {
	installation, err := keylime.EnsureInstalled(ctx, keylime.InstallOptions{Version: s.plan.Keylime.Version, CacheDir: s.handoff.Cache})
	if err != nil {
		return err
	}
	forks, err := keylime.StartForkServer(installation, filepath.Join(sandbox.RuntimeDir, "forkserver"))
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.forks = forks // imports while certificates are made
	s.mu.Unlock()
	configured, err := fleet.Configure(ctx, s.dir, s.plan, installation)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.configured = configured
	s.registrar = configured.RegistrarClient(s.dialFrom(plan.Tenant))
	s.verifier = configured.VerifierClient(s.dialFrom(plan.Tenant))
	return nil
}

func (s *supervisor) closeForks(context.Context) error {
	s.mu.Lock()
	forks := s.forks
	s.mu.Unlock()
	if forks == nil {
		return nil
	}
	return forks.Close()
}

// dialFrom connects from a host of the lab, once the network is there.
func (s *supervisor) dialFrom(host string) keylime.Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		s.mu.Lock()
		lab := s.network
		s.mu.Unlock()
		if lab == nil {
			return nil, errors.New("the lab's network is not there")
		}
		return lab.Host(host).DialContext(ctx, network, address)
	}
}

func (s *supervisor) startRegistrar(ctx context.Context) error {
	return s.startService(ctx, plan.Registrar, s.configured.Registrar())
}

func (s *supervisor) startVerifier(ctx context.Context) error {
	if err := s.startReceiver(); err != nil {
		return err
	}
	return s.startService(ctx, plan.Verifier, s.configured.Verifier())
}

// startService starts one of Keylime's services on the host of its name, and waits until it answers.
func (s *supervisor) startService(ctx context.Context, host string, c keylime.Command) error {
	start, ready := s.forkOn(host), func(ctx context.Context) error { return c.Ready(ctx, s.dialFrom(plan.Tenant)) }
	s.mu.Lock()
	skew := s.skew[host]
	s.mu.Unlock()
	if skew != 0 {
		var err error
		if c, err = skewed(c, skew); err != nil {
			return err
		}
		start, ready = s.execOn(host), s.awaitHandshake(host) // what shows it another time is loaded by an exec
	}
	p, err := s.startProcess(host, c, start)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.services[host] = p
	s.mu.Unlock()
	return p.awaitReady(ctx, ready)
}

func (s *supervisor) stopService(host string) func(context.Context) error {
	return func(ctx context.Context) error {
		s.mu.Lock()
		p := s.services[host]
		s.mu.Unlock()
		if p == nil {
			return nil
		}
		return p.stop(ctx)
	}
}

// Tenant implements control.Lab.
func (s *supervisor) Tenant(context.Context) (control.Command, error) {
	s.mu.Lock()
	configured := s.configured
	s.mu.Unlock()
	if configured == nil {
		return control.Command{}, fmt.Errorf("the lab is %s: Keylime is not configured yet", s.phase())
	}
	c := configured.Tenant()
	return control.Command{Host: plan.Tenant, Argv: c.Argv, Env: c.Env}, nil
}
