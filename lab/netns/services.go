package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"time"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
)

// configureKeylime makes the services' certificates, if there are none, and their configuration. Databases are new with
// every start of the lab: the services know nothing of an earlier run, while TPMs, EK CA and agents keep their keys.
func (s *supervisor) configureKeylime(ctx context.Context) error {
	k := s.plan.Keylime
	pki, err := keylime.OpenPKI(s.dir.PKI())
	if errors.Is(err, fs.ErrNotExist) {
		registrar, verifier := k.Certificate(plan.Registrar), k.Certificate(plan.Verifier)
		pki, err = keylime.CreatePKI(s.dir.PKI(), keylime.PKIOptions{
			CommonName:     k.Certificates[0].CommonName,
			RegistrarNames: registrar.Names, RegistrarIPs: ips(registrar.Addresses),
			VerifierNames: verifier.Names, VerifierIPs: ips(verifier.Addresses),
		})
	}
	if err != nil {
		return err
	}
	installation, err := keylime.EnsureInstalled(ctx, keylime.InstallOptions{Version: k.Version, CacheDir: s.handoff.Cache})
	if err != nil {
		return err
	}
	if err := os.RemoveAll(s.dir.Keylime()); err != nil {
		return fmt.Errorf("delete the services' state of the last run: %w", err)
	}
	configured, err := keylime.WriteConfig(ctx, keylime.Config{
		Dir: s.dir.Keylime(), PKI: pki, Installation: installation,
		RegistrarIP: k.Registrar.Addr().String(), RegistrarPort: int(k.Registrar.Port()), RegistrarTLSPort: int(k.RegistrarTLS.Port()),
		VerifierIP: k.Verifier.Addr().String(), VerifierPort: int(k.Verifier.Port()),
		Mode: k.Mode, QuoteInterval: time.Duration(k.QuoteInterval),
		TPMCertStore: s.dir.CertStore(), SkipEKCert: !k.RequireEKCert,
		AcceptSigningAlgs: s.signingAlgorithms(),
		VerifierWorkers:   k.VerifierWorkers, RegistrarWorkers: k.RegistrarWorkers,
		Overrides: k.Options,
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pki, s.configured = pki, configured
	s.registrar = configured.RegistrarClient(s.dialFrom(plan.Tenant))
	s.verifier = configured.VerifierClient(s.dialFrom(plan.Tenant))
	return nil
}

// signingAlgorithms are those of the plan's AKs, beside Keylime's own defaults, which lack ECDSA.
func (s *supervisor) signingAlgorithms() []string {
	for _, n := range s.plan.Nodes {
		if n.Agent.AKAlgorithm == "ecdsa" {
			return []string{"ecschnorr", "rsassa", "ecdsa"}
		}
	}
	return nil
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
	return s.startService(ctx, plan.Verifier, s.configured.Verifier())
}

// startService starts one of Keylime's services on the host of its name, and waits until it answers.
func (s *supervisor) startService(ctx context.Context, host string, c keylime.Command) error {
	p, err := startProcess(s.plan.Lab, host, c, s.dir.Log(host))
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.services[host] = p
	s.mu.Unlock()
	return p.awaitReady(ctx, func(ctx context.Context) error { return c.Ready(ctx, s.dialFrom(plan.Tenant)) })
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

func ips(addresses []netip.Addr) []net.IP {
	var out []net.IP
	for _, a := range addresses {
		out = append(out, a.AsSlice())
	}
	return out
}
