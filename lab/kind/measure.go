package kind

import (
	"context"
	"fmt"
	"os"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// measuredDir is where a TPM's container keeps what is to outlast it of what the node measures.
const measuredDir = "/measured"

// makeMeasuredDir makes the folder of this machine that is that.
func (l *Lab) makeMeasuredDir(node string) error {
	if err := os.MkdirAll(l.dir.Measured(node), 0o700); err != nil {
		return fmt.Errorf("make the folder of what %s measures: %w", node, err)
	}
	return nil
}

// startNewTPM starts a node's TPM for a lab that begins: updates of its firmware are those of one run.
func (l *Lab) startNewTPM(n plan.Node) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := os.RemoveAll(l.dir.Measured(n.Name)); err != nil {
			return fmt.Errorf("delete what %s measured in the lab's last run: %w", n.Name, err)
		}
		return l.startTPM(n)(ctx)
	}
}

// makePolicies is the plan's step: runtime policies, made by Keylime's own tool on this machine.
func (l *Lab) makePolicies(ctx context.Context) error {
	configured, err := l.onThisMachine(ctx)
	if err != nil {
		return err
	}
	return fleet.MakePolicies(ctx, l.dir, configured, l.planned)
}

// onThisMachine is the lab's Keylime with the tools of this machine in place of those of the containers.
func (l *Lab) onThisMachine(ctx context.Context) (*keylime.Configured, error) {
	cache, err := l.cache, error(nil)
	if cache == "" { // the lab was opened again
		if cache, err = state.CacheBase(); err != nil {
			return nil, err
		}
	}
	onHost, err := keylime.EnsureInstalled(ctx, keylime.InstallOptions{Version: l.planned.Keylime.Version, CacheDir: cache})
	if err != nil {
		return nil, err
	}
	return fleet.Reopen(l.dir, l.planned, onHost)
}

// Policies implements fleet.Policymaker.
func (m machines) Policies(ctx context.Context, n plan.Node) (fleet.Policies, error) {
	verifier, err := m.l.verifier()
	if err != nil {
		return fleet.Policies{}, err
	}
	tools, err := m.l.onThisMachine(ctx)
	if err != nil {
		return fleet.Policies{}, err
	}
	tpm := m.l.tpm(n.Name)
	return fleet.Policies{
		Dir: m.l.dir, Node: n, UUID: m.l.node(n.Name).UUID, Tools: tools, Verifier: verifier, PCRs: tpm.PCRs,
		RefState: func(ctx context.Context) ([]byte, error) { return tpm.RefState(ctx) },
		Measured: func(ctx context.Context) (*control.IMAList, error) {
			a, err := tpm.Measure(ctx, control.Measurement{Kind: control.ShowList, Node: n.Name})
			return a.IMA, err
		},
	}, nil
}

// Measure implements the lab's side of `keylab ima` and `keylab boot`.
func (l *Lab) Measure(ctx context.Context, m control.Measurement) (a control.Measured, err error) {
	if err := l.mustBeUp(); err != nil {
		return a, err
	}
	release, err := l.holdMembers(ctx)
	if err != nil {
		return a, err
	}
	defer release()
	n, err := l.findNode(m.Node)
	if err != nil {
		return a, err
	}
	on, err := machines{l}.Running(ctx, n)
	if err != nil {
		return a, err
	}
	if !on {
		return a, fmt.Errorf("%s is off: `keylab node start %s` starts it", n.Name, n.Name)
	}
	if err := fleet.Sign(l.dir, n, &m); err != nil {
		return a, err
	}
	if a, err = l.tpm(n.Name).Measure(ctx, m); err == nil && a.IMA != nil {
		err = fleet.MarkAllowed(l.dir, n, a.IMA) // the TPM's container knows the plan alone
	}
	if err == nil && (m.Kind == control.TamperBoot || m.Kind == control.UpdateFirmware) {
		var rebooted string
		rebooted, err = fleet.Act(ctx, machines{l}, control.Action{Kind: control.ActionReboot, Node: n.Name})
		a.Done += "; " + rebooted
	}
	return a, err
}

// request is what the tenant is asked for to have a node enrolled.
func (l *Lab) request(ctx context.Context, n plan.Node, uuid string) (keylime.Request, error) {
	r := fleet.Request(l.dir, l.planned, n, uuid)
	err := fleet.AddPolicies(&r, l.dir, n, func() ([]byte, error) { return l.tpm(n.Name).RefState(ctx) })
	return r, err
}
