package netns

import (
	"bytes"
	"context"
	"fmt"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/verify"
)

var _ fleet.Endorsements[*node] = machines{}

// EK implements control.Lab.
func (s *supervisor) EK(ctx context.Context, o control.EKOrder) (control.EKDone, error) {
	if err := s.mustBeUp(); err != nil {
		return control.EKDone{}, err
	}
	if o.Node != "" {
		_, release, err := s.hold(o.Node)
		if err != nil {
			return control.EKDone{}, err
		}
		defer release()
	}
	done, err := fleet.OrderEK(ctx, fleet.EKLab{Dir: s.dir, Authorities: s.cas, Registrar: s.registrar}, machines{s}, o)
	s.log.Info("ek", "order", o.Kind, "ca", o.CA, "node", o.Node, "refused", done.Refused, "error", err)
	return done, err
}

func (m machines) Nodes() []*node { return m.s.allNodes() }

func (m machines) Planned(n *node) plan.Node { return n.planned() }

func (m machines) UUID(n *node) string {
	uuid, _ := n.identityNow()
	return uuid
}

func (m machines) Enrolment(n *node) verify.Enrolment {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.enrolled
}

func (m machines) Endorsement(ctx context.Context, n *node) (verify.TPMIdentity, error) {
	return n.readTPM(ctx)
}

func (m machines) Endorse(ctx context.Context, n *node, der []byte) error {
	n.mu.Lock()
	tpm := n.tpm
	n.mu.Unlock()
	if tpm == nil {
		return fmt.Errorf("the TPM of %s is off", n.Name)
	}
	change := tpm.RemoveEKCertificate
	if len(der) > 0 {
		change = func(ctx context.Context) error { return tpm.ReplaceEKCertificate(ctx, der) }
	}
	if err := change(ctx); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	identity := *n.identity // others may be looking at it
	identity.Certificate = bytes.Clone(der)
	n.identity = &identity
	return nil
}
