package fleet

import (
	"context"
	"errors"
	"fmt"

	"keylab.dev/keylab/lab/control"
)

// ErrNotRegistered says that a node runs, but its agent could not register: the registrar knows another TPM or another AK under its UUID.
var ErrNotRegistered = errors.New("its agent could not register")

// Bench is where a substrate takes its nodes apart: it changes what is in their TPMs and on their disks, and which node has which TPM.
type Bench[N any] interface {
	// ExtendPCR extends a PCR in all banks by something that no log has. The node is on.
	ExtendPCR(ctx context.Context, n N, pcr int) error
	// ClearTPM does TPM2_Clear. The node is on.
	ClearTPM(ctx context.Context, n N) error
	// SwapTPMs exchanges two nodes' TPMs. Both are off.
	SwapTPMs(ctx context.Context, a, b N) error
	// CloneTPM destroys the TPM of one node, and puts a copy of another's into it. Both are off.
	CloneTPM(ctx context.Context, from, to N) error
	// LoseDisk loses all that a node's agent has on the disk: its AK, its certificate, and a UUID that it made up. The node is off.
	LoseDisk(ctx context.Context, n N) error
}

func extendPCR[N any](ctx context.Context, m Machines[N], n N, a control.Action) (string, error) {
	if err := mustBeOn(ctx, m, n, a.Node); err != nil {
		return "", err
	}
	done := fmt.Sprintf("PCR %d was extended by something that no log has; a reboot resets it", *a.PCR)
	if *a.PCR == agentPCR {
		done += ", and a pull agent does so before each of its quotes"
	}
	return done, m.ExtendPCR(ctx, n, *a.PCR)
}

// agentPCR is the one that pull agents reset for each quote, and extend by their payload key (tpm.TPM_KEY_PCR; Keylime calls it "data").
const agentPCR = 16

// takeApart does what is done to TPMs and disks while their machines are off, and starts the machines again. That an agent then cannot register is not an error
// but what there is to be seen.
func takeApart[N any](ctx context.Context, m Machines[N], n N, a control.Action) (string, error) {
	nodes, names := []N{n}, []string{a.Node}
	if a.Other != "" {
		other, err := m.Find(a.Other)
		if err != nil {
			return "", err
		}
		nodes, names = append(nodes, other), append(names, a.Other)
	}
	if a.Kind == control.ActionResetTPM { // by the firmware, which needs a TPM that is on
		if err := mustBeOn(ctx, m, n, a.Node); err != nil {
			return "", err
		}
		if err := m.ClearTPM(ctx, n); err != nil {
			return "", err
		}
	}
	for _, n := range nodes {
		on, err := m.Running(ctx, n)
		if err != nil {
			return "", err
		}
		if on {
			if err := m.PowerOff(ctx, n, true); err != nil {
				return "", err
			}
		}
	}
	var done string
	var err error
	switch a.Kind {
	case control.ActionResetTPM:
		done = "its TPM was cleared: it has the EK and the EK certificate that it had, but no AK and no clock"
	case control.ActionSwapTPMs:
		done = fmt.Sprintf("it has exchanged its TPM with %s", a.Other)
		err = m.SwapTPMs(ctx, nodes[0], nodes[1])
	case control.ActionCloneTPM:
		done = fmt.Sprintf("%s has a copy of its TPM, and so the same UUID", a.Other)
		err = m.CloneTPM(ctx, nodes[0], nodes[1])
	case control.ActionReimage:
		done = "it was installed anew: it has the TPM that it had, and nothing of what its agent had kept, such as the AK"
		err = m.LoseDisk(ctx, n)
	}
	if err != nil {
		return "", err
	}
	for i, n := range nodes {
		err := m.PowerOn(ctx, n)
		switch {
		case errors.Is(err, ErrNotRegistered):
			done += fmt.Sprintf("; %s runs, but %v: `keylab node enrol %s` has it registered and enrolled as it is now", names[i], err, names[i])
		case err != nil:
			return "", fmt.Errorf("start %s again: %w", names[i], err)
		default:
			done += fmt.Sprintf("; the agent of %s has registered", names[i])
		}
	}
	return done, nil
}

func mustBeOn[N any](ctx context.Context, m Machines[N], n N, name string) error {
	on, err := m.Running(ctx, n)
	if err == nil && !on {
		err = fmt.Errorf("it is off: `keylab node start %s` starts it", name)
	}
	return err
}
