package netns

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"sync"

	"github.com/google/go-tpm/tpm2/transport"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/netns/sandbox"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/proof"
)

// goAgent is keylab's own agent, a goroutine of the supervisor.
type goAgent struct {
	*agent.Agent
	listen      func() (net.Listener, error)
	connections *cuttable
	done        chan struct{} // closed when it serves no more
	mu          sync.Mutex
	cancel      context.CancelCauseFunc // with why it ends; nil until it serves
	err         error
}

// Why an agent that is a part of the supervisor ended.
var (
	errAgentStopped = errors.New("the agent was stopped")
	errAgentKilled  = errors.New("the agent was killed")
)

// endOf tells what of these it was.
func endOf(err error) proof.End {
	switch {
	case errors.Is(err, errAgentStopped):
		return proof.EndStopped
	case errors.Is(err, errAgentKilled):
		return proof.EndKilled
	}
	return ""
}

func (n *node) startGoAgent(ctx context.Context) (nodeAgent, error) {
	log, err := n.s.logger(n.Name)
	if err != nil {
		return nil, err
	}
	ns := n.s.network.Host(n.Name)
	connections := &cuttable{open: map[net.Conn]struct{}{}}
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
		Listener:       connections,
		SecureDir:      n.secureDir(),
		ExtractPayload: n.extract(),
		PayloadScript:  n.script(),
		PayloadActions: n.s.plan.PayloadPackaged(), // as the Rust agent's default
		StartScript: func(cmd *exec.Cmd) error {
			sandbox.On(cmd, n.s.plan.Lab, n.Name)
			return cmd.Start()
		},
		Logger:       log,
		OnRevocation: n.told,
		OnActions:    n.acted,
		OnAccess: func(x agent.Access) {
			log.Info("request", "remote", x.Remote, "method", x.Method, "path", x.Path, "nonce", x.Nonce, "status", x.Status, "name", x.ServerName)
		},
	}
	n.serveLogs(&config)
	a, err := agent.New(ctx, config)
	if err != nil {
		return nil, err
	}
	listen := func() (net.Listener, error) { return ns.Listen("tcp", join(n.Address, n.Agent.Port)) }
	return &goAgent{Agent: a, listen: listen, connections: connections, done: make(chan struct{})}, nil
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

// register makes the agent known to the registrar, and then has it serve: like the Rust agent it answers nobody before,
// and ends if it cannot.
func (g *goAgent) register(ctx context.Context) error {
	l, err := g.registerAndListen(ctx)
	if err != nil {
		g.mu.Lock()
		g.err = err
		g.mu.Unlock()
		return err
	}
	g.connections.Listener = l
	life, cancel := context.WithCancelCause(context.Background())
	g.mu.Lock()
	g.cancel = cancel
	g.mu.Unlock()
	go func() {
		defer close(g.done)
		err := g.Serve(life)
		if err == nil && life.Err() == nil {
			err = errors.New("the agent's server ended")
		}
		if life.Err() != nil {
			err = context.Cause(life)
		}
		g.mu.Lock()
		g.err = err
		g.mu.Unlock()
	}()
	return nil
}

func (g *goAgent) registerAndListen(ctx context.Context) (net.Listener, error) {
	if err := g.Register(ctx); err != nil {
		return nil, err
	}
	return g.listen()
}

func (g *goAgent) certificate() *x509.Certificate { return g.ServerCertificate() }

func (g *goAgent) served(nonce string) (int, error) { return g.ServedNonce(nonce), nil }

func (g *goAgent) ended() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *goAgent) end() proof.End { return endOf(g.ended()) }

func (g *goAgent) stop(ctx context.Context) error { return g.endBy(ctx, errAgentStopped) }

// kill breaks all connections off, as the kernel does for a process that is killed.
func (g *goAgent) kill(ctx context.Context) error { return g.endBy(ctx, errAgentKilled) }

func (g *goAgent) endBy(ctx context.Context, why error) error {
	g.mu.Lock()
	cancel := g.cancel
	if cancel == nil {
		g.err = why
	}
	g.mu.Unlock()
	if cancel == nil { // it has not come to serve
		return g.Close()
	}
	cancel(why)
	if errors.Is(why, errAgentKilled) {
		g.connections.cut()
	}
	select {
	case <-g.done:
		return g.Close()
	case <-ctx.Done():
		return fmt.Errorf("waiting for the agent to end: %w", ctx.Err())
	}
}

// cuttable is a listener whose connections can all be broken off.
type cuttable struct {
	net.Listener
	mu   sync.Mutex
	open map[net.Conn]struct{}
}

// Accept implements net.Listener.
func (l *cuttable) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[c] = struct{}{}
	return &cuttableConn{c, l}, nil
}

// cut closes the listener, and resets the connections, which tells the peers that nobody has read what they sent.
func (l *cuttable) cut() {
	l.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		c.Close()
	}
}

type cuttableConn struct {
	net.Conn
	l *cuttable
}

// Close implements net.Conn.
func (c *cuttableConn) Close() error {
	c.l.mu.Lock()
	delete(c.l.open, c.Conn)
	c.l.mu.Unlock()
	return c.Conn.Close()
}

// clientCAs is the one authority whose client certificates the agent accepts: Keylime's cv_ca.
func clientCAs(pki *keylime.PKI) *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(pki.CACert)
	return pool
}
