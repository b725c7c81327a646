package netns

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2/transport"

	"keylab.dev/keylab/agent/push"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/proof"
)

// goPushAgent is keylab's own agent of the push model, a goroutine of the supervisor.
type goPushAgent struct {
	*push.Agent
	cancel context.CancelCauseFunc // with why it ends
	done   chan struct{}

	mu      sync.Mutex
	started bool
	err     error
	signed  challenges
}

func (n *node) startGoPushAgent(ctx context.Context) (nodeAgent, error) {
	log, err := n.s.logger(n.Name)
	if err != nil {
		return nil, err
	}
	g := &goPushAgent{done: make(chan struct{}), signed: challenges{count: map[string]int{}}}
	k := n.s.plan.Keylime
	config := push.Config{
		UUID:           n.uuid,
		OpenTPM:        func(context.Context) (transport.TPMCloser, error) { return n.openTPM() },
		EKAlgorithm:    n.TPM.EKAlgorithm,
		StateDir:       n.s.dir.Agent(n.Name),
		ContactAddress: n.hostname,
		ContactPort:    plan.IngressPort,
		Registrar:      k.Registrar.String(),
		Verifier:       k.Verifier.String(),
		VerifierCA:     clientCAs(n.s.configured.PKI),
		Dial:           n.s.network.Host(n.Name).DialContext,
		Interval:       time.Duration(k.QuoteInterval),
		BootTime:       n.bootTime,
		Logger:         log,
		OnAttestation: func(a push.Attestation) {
			log.Info("attestation", "verdict", a.Verdict, "index", a.Index, "challenge", a.Challenge, "error", a.Err)
			g.mu.Lock()
			defer g.mu.Unlock()
			g.signed.add(a.Challenge)
		},
	}
	n.pushLogs(&config)
	g.Agent, err = push.New(ctx, config)
	return g, err
}

// register makes the agent known to the registrar, and has it begin to attest; it ends if it cannot.
func (g *goPushAgent) register(ctx context.Context) error {
	if err := g.Register(ctx); err != nil {
		g.mu.Lock()
		g.err = err
		g.mu.Unlock()
		return err
	}
	life, cancel := context.WithCancelCause(context.Background())
	g.mu.Lock()
	g.cancel, g.started = cancel, true
	g.mu.Unlock()
	go func() {
		defer close(g.done)
		err := g.Run(life)
		if life.Err() != nil {
			err = context.Cause(life)
		} else if err == nil {
			err = errors.New("the agent ended")
		}
		g.mu.Lock()
		g.err = err
		g.mu.Unlock()
	}()
	return nil
}

// certificate is nil: nobody connects to the agent.
func (g *goPushAgent) certificate() *x509.Certificate { return nil }

// served counts the attestations that answered a challenge of the verifier.
func (g *goPushAgent) served(challenge string) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.signed.count[challenge], nil
}

func (g *goPushAgent) ended() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *goPushAgent) end() proof.End { return endOf(g.ended()) }

func (g *goPushAgent) stop(ctx context.Context) error { return g.endBy(ctx, errAgentStopped) }

// kill is stop by another name: what an agent has under way breaks off in any case.
func (g *goPushAgent) kill(ctx context.Context) error { return g.endBy(ctx, errAgentKilled) }

func (g *goPushAgent) endBy(ctx context.Context, why error) error {
	g.mu.Lock()
	cancel, started := g.cancel, g.started
	g.mu.Unlock()
	if !started {
		g.mu.Lock()
		g.err = why
		g.mu.Unlock()
		return g.Close()
	}
	cancel(why)
	select {
	case <-g.done:
		return g.Close()
	case <-ctx.Done():
		return fmt.Errorf("waiting for the agent to end: %w", ctx.Err())
	}
}

// challenges counts the last challenges that an agent answered.
type challenges struct {
	count map[string]int
	order []string
}

// maxChallenges bounds what is remembered.
const maxChallenges = 1000

func (c *challenges) add(challenge string) {
	if challenge == "" {
		return
	}
	if c.count[challenge] == 0 {
		c.order = append(c.order, challenge)
	}
	c.count[challenge]++
	if len(c.order) > maxChallenges {
		delete(c.count, c.order[0])
		c.order = c.order[1:]
	}
}
