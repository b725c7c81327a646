package kind

import (
	"context"
	"fmt"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/verify"
)

var _ fleet.Endorsements[plan.Node] = machines{}

// EK does one thing with the lab's EK CAs or its nodes' EK certificates. The tenant's container has the folder of the tpm_cert_store mounted, so that it sees
// what changes there.
func (l *Lab) EK(ctx context.Context, o control.EKOrder) (control.EKDone, error) {
	if !o.AboutNodes() {
		return fleet.OrderCA(l.dir, l.authorities(), o)
	}
	if err := l.mustBeUp(); err != nil {
		return control.EKDone{}, err
	}
	release, err := l.holdMembers(ctx)
	if err != nil {
		return control.EKDone{}, err
	}
	defer release()
	registrar, err := l.registrar()
	if err != nil {
		return control.EKDone{}, err
	}
	defer registrar.Close()
	return fleet.OrderEK(ctx, fleet.EKLab{Dir: l.dir, Authorities: l.authorities(), Registrar: registrar}, machines{l}, o)
}

func (m machines) Nodes() []plan.Node { return m.l.planned.Nodes }

func (m machines) Planned(n plan.Node) plan.Node { return n }

func (m machines) UUID(n plan.Node) string { return m.l.node(n.Name).UUID }

func (m machines) Enrolment(n plan.Node) verify.Enrolment { return m.l.node(n.Name).Enrolled }

func (m machines) Endorsement(ctx context.Context, n plan.Node) (verify.TPMIdentity, error) {
	id, err := m.l.tpm(n.Name).Identity(ctx)
	if err != nil {
		return verify.TPMIdentity{}, fmt.Errorf("ask the TPM of %s for its EK: %w", n.Name, err)
	}
	return verify.TPMIdentity{EKPublic: id.EKPublic, EKSPKI: id.EKSPKI, Certificate: id.Certificate}, nil
}

func (m machines) Endorse(ctx context.Context, n plan.Node, der []byte) error {
	change := m.l.tpm(n.Name).RemoveCertificate
	if len(der) > 0 {
		change = func(ctx context.Context) error { return m.l.tpm(n.Name).ReplaceCertificate(ctx, der) }
	}
	if err := change(ctx); err != nil {
		return fmt.Errorf("write to the TPM of %s: %w", n.Name, err)
	}
	return m.l.learnNode(n.Name, func(f *nodeFacts) { f.EKCertificate = der })
}
