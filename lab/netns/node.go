package netns

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/measure"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/proof"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/verify"
	"keylab.dev/keylab/netlab"
	"keylab.dev/keylab/tpmsim"
)

// TCTI is where a node's TPM answers, on the loopback of the node's own namespace: swtpm's TCP protocol, which tpm2-tss
// (TCTI "swtpm") and the Rust agent speak. The control port is the next one.
const (
	tctiHost = "127.0.0.1"
	tctiPort = 2321
	TCTI     = "swtpm:host=127.0.0.1,port=2321"
)

// nodeAgent is a running agent of any kind.
type nodeAgent interface {
	// register makes the agent known to the registrar and returns when it is active there.
	register(ctx context.Context) error
	certificate() *x509.Certificate
	// served counts the quotes given for a nonce.
	served(nonce string) (int, error)
	// ended is nil while the agent runs, and else says how it ended.
	ended() error
	// end tells whether one that has ended was stopped or killed.
	end() proof.End
	stop(ctx context.Context) error
	// kill ends the agent without letting it do anything more.
	kill(ctx context.Context) error
}

// node is one attested machine, running.
type node struct {
	plan.Node
	s        *supervisor
	measured *measure.Node

	mu       sync.Mutex
	tpm      *tpmsim.TPM
	identity *tpmsim.Identity
	tcti     []net.Listener
	uuid     string
	hostname string
	agent    nodeAgent
	program  *plan.Agent // which agent it has now, if that was replaced since the plan was made
	// agentStarts counts the agents that the node has had since `up` began.
	agentStarts int
	arrivals    *netlab.ConnCounter // connections that reached the agent's port, by the node's own kernel
	enrolled    verify.Enrolment
	booted      time.Time // when the machine was started last
	secure      bool      // its tmpfs is mounted
	off         bool      // the machine is switched off
	gone        bool      // it has left the lab
	// forgotten: registrar and verifier were told to forget it, and its agent has not registered since.
	forgotten    bool
	unregistered error             // why its agent, which was started again, could not register and was ended
	impaired     netlab.Impairment // of its cable
	former       []string          // UUIDs of TPMs that were replaced, which the verifier may still know

	acting sync.Mutex // one action at a time
}

// startTPM powers the node's TPM on, manufactures it if it is new, and serves it on the node's loopback.
func (n *node) startTPM(ctx context.Context) error {
	backend, err := tpmsim.Select(n.TPM.Backend)
	if err != nil {
		return err
	}
	options := tpmsim.Options{Name: n.Name, Dir: n.s.dir.TPM(n.Name), Backend: backend}
	if options.Seed, err = fleet.TPMSeed(n.s.dir, n.Node); err != nil {
		return err
	}
	log, err := n.s.logFile("tpm-" + n.Name)
	if err != nil {
		return err
	}
	options.Log = log
	tpm, err := tpmsim.Open(ctx, options)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.tpm, n.booted = tpm, time.Now()
	n.mu.Unlock()
	without, err := fleet.WithoutEK(n.s.dir, n.Node)
	if err != nil {
		return err
	}
	identity, err := tpm.Manufacture(ctx, tpmsim.ManufactureOptions{
		Algorithm:          tpmsim.Algorithm(n.TPM.EKAlgorithm),
		WithoutCertificate: without,
		Certificate: func(ek crypto.PublicKey, _ tpmsim.Algorithm) ([]byte, error) {
			return fleet.IssueEK(n.s.cas, n.Node, ek)
		},
	})
	if err != nil {
		return err
	}
	id, err := fleet.UUID(n.s.dir, n.Node, identity.Public)
	if err != nil {
		return err
	}
	hostname, err := fleet.Hostname(n.s.dir, n.Node, id, n.s.plan.Domain)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.identity, n.uuid, n.hostname = identity, id, hostname
	n.mu.Unlock()
	return n.boot(ctx)
}

// serveTPM offers the TPM on the node's loopback. It needs the network, which the TPM itself does not.
func (n *node) serveTPM() error {
	ns := n.s.network.Host(n.Name)
	data, err := ns.Listen("tcp", net.JoinHostPort(tctiHost, fmt.Sprint(tctiPort)))
	if err != nil {
		return err
	}
	ctrl, err := ns.Listen("tcp", net.JoinHostPort(tctiHost, fmt.Sprint(tctiPort+1)))
	if err != nil {
		data.Close()
		return err
	}
	n.mu.Lock()
	n.tcti = []net.Listener{data, ctrl}
	tpm := n.tpm
	n.mu.Unlock()
	go func() {
		if err := tpm.ServeTCTI(context.Background(), data, ctrl); err != nil && !errors.Is(err, net.ErrClosed) {
			n.s.log.Error("the TPM's TCTI ended", "node", n.Name, "error", err)
		}
	}()
	return nil
}

// startAgent starts the node's agent, opens its hostname at the ingress, and registers it.
func (n *node) startAgent(ctx context.Context) error {
	n.mu.Lock()
	served, counted := len(n.tcti) > 0, n.arrivals != nil
	n.mu.Unlock()
	if !served {
		if err := n.serveTPM(); err != nil {
			return err
		}
	}
	if !counted {
		arrivals, err := netlab.CountConnections(n.s.network.Host(n.Name), n.Agent.Port)
		if err != nil {
			return err
		}
		n.mu.Lock()
		n.arrivals = arrivals
		n.mu.Unlock()
	}
	if err := n.mountSecure(); err != nil {
		return err
	}
	var a nodeAgent
	var err error
	push, program := n.s.plan.Keylime.Push(), n.planned().Agent
	switch {
	case program.Kind == string(spec.AgentBinary):
		a, err = n.startBinaryAgent(program.Path)
	case push:
		a, err = n.startGoPushAgent(ctx)
	default:
		a, err = n.startGoAgent(ctx)
	}
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.agent = a
	n.agentStarts++
	n.mu.Unlock()
	if !push && !n.s.named(n, n.hostname) { // nobody asks those that push for anything
		if err := n.s.ingress.SetRoute(n.hostname, join(n.Address, n.Agent.Port)); err != nil {
			return err
		}
	}
	if err := a.register(ctx); err != nil {
		return err
	}
	n.mu.Lock()
	n.forgotten, n.unregistered = false, nil
	n.mu.Unlock()
	return nil
}

func (n *node) bootTime() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.booted
}

// stopAgent ends the node's agent; it is no error when none runs.
func (n *node) stopAgent(ctx context.Context) error {
	n.mu.Lock()
	a := n.agent
	n.mu.Unlock()
	if a == nil {
		return nil
	}
	return a.stop(ctx)
}

// agentRuns tells whether the node has an agent that has not ended.
func (n *node) agentRuns() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.agent != nil && n.agent.ended() == nil
}

// stopTPM ends the TPM in order, so that its clock stays safe over the next start (TPM 2.0 Library, Part 1, Clock).
func (n *node) stopTPM(ctx context.Context) error {
	n.mu.Lock()
	tpm, tcti := n.tpm, n.tcti
	n.tpm, n.tcti = nil, nil
	n.mu.Unlock()
	for _, l := range tcti {
		l.Close()
	}
	if tpm == nil {
		return nil
	}
	return tpm.Close(ctx)
}

// enrol has the tenant hand the agent to the verifier. A refusal that the specification asked for is noted, not an error.
func (n *node) enrol(ctx context.Context) error {
	result, err := n.askTenant(ctx)
	if err != nil {
		return err
	}
	return fleet.CheckEnrolment(n.Node, n.uuid, result, n.s.plan.Keylime.RequireEKCert, n.noteEnrol)
}

// enrolFirst is enrol while the lab is brought up.
func (n *node) enrolFirst(ctx context.Context) error {
	result, err := n.askTenant(ctx)
	if err != nil {
		return err
	}
	n.mu.Lock()
	certificate := n.identity.Certificate
	n.mu.Unlock()
	l := fleet.EKLab{Dir: n.s.dir, Authorities: n.s.cas}
	return fleet.CheckFirstEnrolment(n.Node, n.uuid, result, l, certificate, n.s.plan.Keylime.RequireEKCert, n.noteEnrol)
}

func (n *node) noteEnrol(text string) { n.s.journal.note(plan.NodeStep(plan.StepEnrol, n.Name), text) }

func (n *node) askTenant(ctx context.Context) (verify.Enrolment, error) {
	var result verify.Enrolment
	if err := n.awaitClock(ctx); err != nil {
		return result, err
	}
	request, err := n.request()
	if err != nil {
		return result, err
	}
	if k := n.s.plan.Keylime; k.Push() {
		result, err = fleet.EnrolPush(ctx, n.s.registrar, n.s.dir.CertStore(), k.RequireEKCert, n.s.tenant, n.s.tenantLog, request)
	} else {
		result, err = fleet.Enrol(ctx, n.s.tenant, n.s.tenantLog, request)
	}
	if err != nil {
		return result, err
	}
	n.mu.Lock()
	n.enrolled = result
	n.mu.Unlock()
	return result, nil
}

// awaitClock waits until the TPM's clock is safe: after a power cut, as when the lab was killed, Keylime would not trust it yet.
func (n *node) awaitClock(ctx context.Context) error {
	n.mu.Lock()
	tpm := n.tpm
	n.mu.Unlock()
	if tpm == nil {
		return fmt.Errorf("the TPM of %s is off", n.Name)
	}
	waited, err := tpm.AwaitSafeClock(ctx)
	if err == nil && waited > time.Second {
		n.noteEnrol(fmt.Sprintf("waited %.1f s until the TPM's clock was safe again: the TPM had lost its power", waited.Seconds()))
	}
	return err
}

// refused tells whether the tenant turned the node down.
func (n *node) refused() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.enrolled.Done && !n.enrolled.OK
}

// awaitAttested waits for the verifier's first successful attestation of the node.
func (n *node) awaitAttested(ctx context.Context) error {
	if n.refused() {
		return nil
	}
	if err := fleet.AwaitAttested(ctx, n.s.verifier, n.Name, n.uuid); err != nil {
		return err
	}
	return fleet.AwaitPayload(ctx, n.Name, n.payload)
}
