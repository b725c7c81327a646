package netns

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os/exec"
	"sync"

	"github.com/google/go-tpm/tpm2/transport"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/netns/sandbox"
	"keylab.dev/keylab/lab/plan"
)

// goAgent is keylab's own agent, a goroutine of the supervisor.
type goAgent struct {
	*agent.Agent
	cancel context.CancelFunc
	done   chan struct{}
	mu     sync.Mutex
	err    error
}

func (n *node) startGoAgent(ctx context.Context) (nodeAgent, error) {
	log, err := n.s.logger(n.Name)
	if err != nil {
		return nil, err
	}
	ns := n.s.network.Host(n.Name)
	l, err := ns.Listen("tcp", join(n.Address, n.Agent.Port))
	if err != nil {
		return nil, err
	}
	config := agent.Config{
		UUID:           n.uuid,
		OpenTPM:        func(context.Context) (transport.TPMCloser, error) { return n.openTPM() },
		EKAlgorithm:    n.TPM.EKAlgorithm,
		AKAlgorithm:    n.Agent.AKAlgorithm,
		HashAlgorithm:  n.Agent.HashAlgorithm,
		APIVersions:    keylime.AgentAPIVersions(n.s.plan.Keylime.Version),
		StateDir:       n.s.dir.Agent(n.Name),
		ContactAddress: n.hostname,
		ContactPort:    plan.IngressPort,
		Registrar:      n.s.plan.Keylime.Registrar.String(),
		ClientCAs:      clientCAs(n.s.configured.PKI),
		Dial:           ns.DialContext,
		Listener:       l,
		SecureDir:      n.secureDir(),
		ExtractPayload: n.extract(),
		PayloadScript:  n.script(),
		StartScript: func(cmd *exec.Cmd) error {
			sandbox.On(cmd, n.s.plan.Lab, n.Name)
			return cmd.Start()
		},
		Logger:       log,
		OnRevocation: func(r agent.Revocation) { n.s.addNotice(n.Name, r) },
		OnAccess: func(x agent.Access) {
			log.Info("request", "remote", x.Remote, "method", x.Method, "path", x.Path, "nonce", x.Nonce, "status", x.Status, "name", x.ServerName)
		},
	}
	n.serveLogs(&config)
	a, err := agent.New(ctx, config)
	if err != nil {
		l.Close()
		return nil, err
	}
	life, cancel := context.WithCancel(context.Background())
	g := &goAgent{Agent: a, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(g.done)
		err := a.Serve(life)
		if err == nil && life.Err() == nil {
			err = errors.New("the agent's server ended")
		}
		if life.Err() != nil {
			err = errors.New("the agent was stopped")
		}
		g.mu.Lock()
		g.err = err
		g.mu.Unlock()
	}()
	return g, nil
}

// openTPM is one more client of the node's TPM.
func (n *node) openTPM() (transport.TPMCloser, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.tpm == nil {
		return nil, fmt.Errorf("the TPM of %s is off", n.Name)
	}
	return n.tpm.Client(), nil
}

func (g *goAgent) register(ctx context.Context) error { return g.Register(ctx) }

func (g *goAgent) certificate() *x509.Certificate { return g.ServerCertificate() }

func (g *goAgent) served(nonce string) (int, error) { return g.ServedNonce(nonce), nil }

func (g *goAgent) ended() error {
	select {
	case <-g.done:
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.err
	default:
		return nil
	}
}

func (g *goAgent) stop(ctx context.Context) error {
	g.cancel()
	select {
	case <-g.done:
		return g.Close()
	case <-ctx.Done():
		return fmt.Errorf("waiting for the agent to end: %w", ctx.Err())
	}
}

// clientCAs is the one authority whose client certificates the agent accepts: Keylime's cv_ca.
func clientCAs(pki *keylime.PKI) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(pki.CACert)
	return pool
}
