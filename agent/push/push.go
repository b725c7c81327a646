package push

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/google/go-tpm/tpm2"

	"keylab.dev/keylab/agent"
)

// Agent is one Keylime push-model agent. Its methods may be called concurrently.
type Agent struct {
	cfg   Config
	log   *slog.Logger
	agent *agent.Agent // TPM, keys, registration

	running struct {
		sync.Mutex
		stop   context.CancelFunc
		done   chan struct{}
		closed bool
	}
	stats struct {
		sync.Mutex
		Stats
	}
}

// New opens the TPM, finds or makes the keys. It does not touch the network. The
// TPM must be started up.
func New(ctx context.Context, cfg Config) (*Agent, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	inner, err := agent.New(ctx, agent.Config{
		UUID:           cfg.UUID,
		OpenTPM:        cfg.OpenTPM,
		EKAlgorithm:    cfg.EKAlgorithm,
		AKAlgorithm:    akScheme,
		HashAlgorithm:  akHash,
		StateDir:       cfg.StateDir,
		ContactAddress: cfg.ContactAddress,
		ContactPort:    cfg.ContactPort,
		Registrar:      cfg.Registrar,
		Dial:           cfg.Dial,
		RequestTimeout: cfg.RequestTimeout,
		RetryDelay:     cfg.RetryDelay,
		Logger:         cfg.Logger,
		Push:           true,
	})
	if err != nil {
		return nil, fmt.Errorf("push agent: %w", err)
	}
	return &Agent{cfg: cfg, log: cfg.Logger.With("agent", inner.UUID()), agent: inner}, nil
}

// Register makes the agent known to the registrar, as agent.Agent.Register does; the
// errors are its errors. The certificate registered is "disabled".
func (a *Agent) Register(ctx context.Context) error { return a.agent.Register(ctx) }

// UUID is the agent's identity.
func (a *Agent) UUID() string { return a.agent.UUID() }

// AKPublic is the public area of the AK.
func (a *Agent) AKPublic() tpm2.TPMTPublic { return a.agent.AKPublic() }

// EKCertificates are the certificates found in the TPM in DER, leaf first; empty if
// there are none. The caller must not change them.
func (a *Agent) EKCertificates() [][]byte { return a.agent.EKCertificates() }

// Stats is what the agent did so far.
func (a *Agent) Stats() Stats {
	a.stats.Lock()
	defer a.stats.Unlock()
	return a.stats.Stats
}

// Close stops Run, unloads the agent's keys and closes the TPM connection.
func (a *Agent) Close() error {
	a.running.Lock()
	a.running.closed = true
	stop, done := a.running.stop, a.running.done
	a.running.Unlock()
	if stop != nil {
		stop()
		<-done
	}
	return a.agent.Close()
}

// Run attests until ctx ends or Close is called, and returns nil then. An agent runs
// once at a time; a second Run fails at once.
func (a *Agent) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan struct{})
	a.running.Lock()
	if a.running.stop != nil || a.running.closed {
		a.running.Unlock()
		return errors.New("the push agent runs already, or is closed")
	}
	a.running.stop, a.running.done = stop, done
	a.running.Unlock()
	defer func() {
		a.running.Lock()
		a.running.stop = nil
		a.running.Unlock()
		close(done)
	}()
	u := &runner{cfg: &a.cfg, log: a.log, uuid: a.UUID(), tpm: a.agent, client: newClient(&a.cfg), report: a.report}
	defer u.client.close()
	u.run(ctx)
	return nil
}

func (a *Agent) report(record Attestation) {
	a.stats.Lock()
	a.stats.count(&record)
	a.stats.Unlock()
	if a.cfg.OnAttestation != nil {
		a.cfg.OnAttestation(record)
	}
}
