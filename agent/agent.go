package agent

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
)

// Agent is one Keylime agent. Its methods may be called concurrently.
type Agent struct {
	cfg  Config
	log  *slog.Logger
	uuid string
	hash tpm2.TPMAlgID // PCR bank and AK digest

	device  *device
	ek      *endorsement
	ak      *attestationKey
	settled bool // under the device's lock: the EK need not stay loaded

	payload       *rsa.PrivateKey
	payloadPEM    string // public half
	payloadDigest []byte // what PCR 16 is extended with
	boundValue    []byte // what PCR 16 holds then
	server        *tls.Certificate

	halves   keyHalves
	payloads worker
	actions  worker
	notifier atomic.Pointer[x509.Certificate] // by which notices are checked
	book     accessBook
	serving  struct {
		sync.Mutex
		stop   context.CancelFunc
		done   chan struct{}
		closed bool
	}
}

// New opens the TPM, finds or makes the keys and the server certificate. It does
// not touch the network. The TPM must be started up.
func New(ctx context.Context, cfg Config) (*Agent, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	a := &Agent{
		cfg:    cfg,
		log:    cfg.Logger,
		hash:   hashAlgorithms[cfg.HashAlgorithm],
		device: newDevice(cfg.OpenTPM),
	}
	if err := a.prepare(ctx); err != nil {
		return nil, errors.Join(err, a.device.close())
	}
	a.log = a.log.With("agent", a.uuid)
	return a, nil
}

// prepare does the slow parts, the payload key and the TPM's work, side by side.
func (a *Agent) prepare(ctx context.Context) error {
	dir := stateDir(a.cfg.StateDir)
	if a.cfg.Push {
		return a.prepareTPM(ctx, dir)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		a.payload, err = payloadKey(&a.cfg, dir)
		return err
	})
	group.Go(func() error { return a.prepareTPM(ctx, dir) })
	if err := group.Wait(); err != nil {
		return err
	}
	public, err := publicPEM(&a.payload.PublicKey)
	if err != nil {
		return fmt.Errorf("encoding the payload key: %w", err)
	}
	a.payloadPEM = string(public)
	sum, hash, err := digest(a.hash, public)
	if err != nil {
		return err
	}
	a.payloadDigest, a.boundValue = sum, boundPCRValue(hash, sum)
	a.server, err = serverCertificate(&a.cfg, dir, a.uuid, time.Now())
	return err
}

// prepareTPM settles who the agent is and what it signs with.
func (a *Agent) prepareTPM(ctx context.Context, dir stateDir) error {
	saved, err := dir.readState()
	if err != nil {
		return err
	}
	if a.ek, err = a.readEndorsement(ctx); err != nil {
		return fmt.Errorf("finding the EK: %w", err)
	}
	a.warnOfWrongCertificate()
	switch a.cfg.UUID {
	case UUIDHashEK:
		a.uuid = a.ek.hash()
	case UUIDGenerate:
		if saved != nil && saved.UUID != "" {
			a.uuid = saved.UUID
		} else {
			a.uuid = uuid.NewString()
		}
	default:
		a.uuid = a.cfg.UUID
	}
	if err := a.findAK(ctx, saved); err != nil {
		return fmt.Errorf("finding the AK: %w", err)
	}
	return dir.writeState(&savedState{
		UUID:          a.uuid,
		EKHash:        a.ek.hash(),
		AKAlgorithm:   a.cfg.AKAlgorithm,
		HashAlgorithm: a.cfg.HashAlgorithm,
		AKPublic:      tpm2.Marshal(a.ak.public),
		AKPrivate:     tpm2.Marshal(a.ak.private),
	})
}

// findAK uses the saved AK if it belongs to this TPM, else makes a new one, as
// the Rust agent does. The registrar will refuse that one for a known agent.
func (a *Agent) findAK(ctx context.Context, saved *savedState) (err error) {
	if saved.fits(&a.cfg, a.ek.hash()) {
		if a.ak, err = saved.key(); err != nil {
			return err
		}
		err = a.tryAK(ctx)
		if err == nil || !foreignAK(err) {
			return err
		}
		a.log.Warn("the saved AK does not belong to this TPM; making a new one", "error", err)
	} else if saved != nil {
		a.log.Warn("the saved AK is for another EK or algorithm; making a new one")
	}
	if a.ak, err = a.createAK(ctx); err != nil {
		return err
	}
	return a.tryAK(ctx)
}

// warnOfWrongCertificate only warns: whether to accept is the registrar's part.
func (a *Agent) warnOfWrongCertificate() {
	if len(a.ek.certs) == 0 {
		a.log.Warn("the TPM holds no EK certificate")
		return
	}
	cert, err := x509.ParseCertificate(a.ek.certs[0])
	if err != nil {
		a.log.Warn("the EK certificate cannot be parsed", "error", err)
		return
	}
	if key, ok := a.ek.key.(interface{ Equal(crypto.PublicKey) bool }); ok && !key.Equal(cert.PublicKey) {
		a.log.Warn("the EK certificate is for another key", "subject", cert.Subject.String())
	}
}

// UUID is the agent's identity.
func (a *Agent) UUID() string { return a.uuid }

// EKPublic is the public area of the EK in use.
func (a *Agent) EKPublic() tpm2.TPMTPublic { return a.ek.public }

// EKCertificates are the certificates found in the TPM in DER, leaf first;
// empty if there are none. The caller must not change them.
func (a *Agent) EKCertificates() [][]byte { return a.ek.certs }

// AKPublic is the public area of the AK, with which quotes can be verified.
func (a *Agent) AKPublic() tpm2.TPMTPublic { return a.ak.area }

// PayloadPublicPEM is the public payload key in PEM, whose digest every quote
// holds in PCR 16; "" in the push model.
func (a *Agent) PayloadPublicPEM() string { return a.payloadPEM }

// ServerCertificate is the certificate the agent registers and serves with; nil in
// the push model.
func (a *Agent) ServerCertificate() *x509.Certificate {
	if a.server == nil {
		return nil
	}
	return a.server.Leaf
}

// Close stops Serve, unloads the agent's keys and closes the TPM connection.
func (a *Agent) Close() error {
	a.serving.Lock()
	a.serving.closed = true
	stop, done := a.serving.stop, a.serving.done
	a.serving.Unlock()
	if stop != nil {
		stop()
		<-done
	}
	a.payloads.close()
	a.actions.close()
	return a.device.close()
}
