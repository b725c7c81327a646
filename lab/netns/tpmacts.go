package netns

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/spec"
)

// command sends a command to the node's TPM.
func (n *node) command(do func(transport.TPM) error) (err error) {
	c, err := n.openTPM()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return do(c)
}

func (m machines) ExtendPCR(_ context.Context, n *node, pcr int) error {
	return n.command(func(c transport.TPM) error {
		_, err := tpm2.PCREvent{
			PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
			EventData: tpm2.TPM2BEvent{Buffer: []byte("keylab pcr-extend")},
		}.Execute(c)
		if err != nil {
			return fmt.Errorf("TPM2_PCR_Event of PCR %d: %w", pcr, err)
		}
		return nil
	})
}

func (m machines) ClearTPM(_ context.Context, n *node) error {
	return n.command(func(c transport.TPM) error {
		if _, err := (tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}}).Execute(c); err != nil {
			return fmt.Errorf("TPM2_Clear: %w", err)
		}
		return nil
	})
}

func (m machines) SwapTPMs(_ context.Context, a, b *node) error {
	a.withdraw()
	b.withdraw()
	return fleet.SwapTPMs(m.s.dir, a.Node, b.Node)
}

func (m machines) CloneTPM(_ context.Context, from, to *node) error {
	to.withdraw()
	to.outdate()
	return fleet.CloneTPM(m.s.dir, from.Node, to.Node)
}

// LoseDisk deletes the agent's folder. What it has in the machine's memory went when the machine was switched off.
func (m machines) LoseDisk(_ context.Context, n *node) error {
	if err := os.RemoveAll(m.s.dir.Agent(n.Name)); err != nil {
		return fmt.Errorf("lose the disk: %w", err)
	}
	n.unroute()                            // a name that it was given goes with the disk
	if n.Agent.UUID == spec.UUIDGenerate { // it gets another one, and with it another name
		n.withdraw()
		n.outdate()
	}
	return nil
}

// withdraw takes the node's name, which goes with its TPM, away from the ingress, and forgets how it was enrolled.
func (n *node) withdraw() {
	n.unroute()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.enrolled.Done = false
}

// unroute has the ingress refuse the node's name.
func (n *node) unroute() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hostname != "" && n.s.ingress.Routes()[n.hostname] == join(n.Address, n.Agent.Port) { // and not the one of whom it has a copy
		n.s.ingress.RemoveRoute(n.hostname)
	}
}

// outdate notes that the node's TPM, which is about to be destroyed, may be known to registrar and verifier: unless another node has its like.
func (n *node) outdate() {
	uuid, _ := n.identityNow()
	for _, other := range n.s.allNodes() {
		if same, _ := other.identityNow(); other != n && same == uuid {
			return
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.former = append(n.former, uuid)
}

// starts is how many agents the node has had.
func (n *node) starts() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.agentStarts
}

// unregistrable ends the agent of a node whose registration failed for good, as the Rust agent ends by itself, and lets the machine run on.
func (n *node) unregistrable(ctx context.Context, err error) bool {
	n.mu.Lock()
	a := n.agent
	ended := a != nil && a.ended() != nil
	if ended || a != nil && refusedToRegister(err) {
		n.unregistered = err
	} else {
		a = nil
	}
	n.mu.Unlock()
	return a != nil && ctx.Err() == nil && a.stop(ctx) == nil
}

// refusedToRegister tells whether it was the registrar's word that an agent could not register.
func refusedToRegister(err error) bool {
	return errors.Is(err, agent.ErrRegistrarRefused) || errors.Is(err, fleet.ErrForbidden)
}

// named tells whether another node that runs has the same hostname, by a copy of its TPM: who was there first keeps the name.
func (s *supervisor) named(n *node, hostname string) bool {
	for _, other := range s.allNodes() {
		if other == n {
			continue
		}
		other.mu.Lock()
		same := other.hostname == hostname && !other.off
		other.mu.Unlock()
		if same {
			return true
		}
	}
	return false
}
