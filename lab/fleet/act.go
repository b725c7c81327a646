package fleet

import (
	"context"
	"fmt"
	"time"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
)

// Machines is what a substrate can do to its nodes. N is its node.
type Machines[N any] interface {
	// Find knows the nodes by name.
	Find(name string) (N, error)
	// Running tells whether a node's machine is on.
	Running(ctx context.Context, n N) (bool, error)
	// PowerOff ends a node's agent and its TPM: in order, with TPM2_Shutdown, or as a power cut.
	PowerOff(ctx context.Context, n N, orderly bool) error
	// PowerOn starts a node's TPM and its agent, and returns when the agent is registered and can be reached.
	PowerOn(ctx context.Context, n N) error
	// NewTPM puts another TPM, with a certificate of the lab's EK CA, into a node that is off.
	NewTPM(ctx context.Context, n N) error
	// Keylime is the plan's, and Planned a node's part of the plan.
	Keylime() plan.Keylime
	Planned(n N) plan.Node
	// Delivered tells whether the node had a payload, which it keeps in its memory alone.
	Delivered(n N) bool
	// GivenUp tells whether the verifier has given a node up.
	GivenUp(ctx context.Context, n N) (bool, error)
	// Reactivate has the verifier ask again for quotes of nodes that it had given up, and waits for the next good one of each.
	Reactivate(ctx context.Context, nodes []N) error
	// Forget has verifier and registrar forget a node, also under its former UUIDs.
	Forget(ctx context.Context, n N) error
	// RestartAgent ends a node's agent and starts it again, and returns when it has registered and can be reached. One that cannot register does not run.
	RestartAgent(ctx context.Context, n N) error
	// Stale tells whether the registrar does not know the node with the EK certificate that its TPM has now.
	Stale(ctx context.Context, n N) (bool, error)
	// EnrolAgain has the verifier forget a node, under its former UUID too, and the tenant enrol it; it waits for the first good quote.
	EnrolAgain(ctx context.Context, n N) error

	Bench[N]
	Renamer[N]
	Policymaker[N]
	AgentReplacer[N]
}

// actLimit is how long an action or a fault may take: what a lab waits for then does not come.
const actLimit = 5 * time.Minute

// Limited ends what waits in vain, for an action that a substrate carries out by itself.
func Limited(ctx context.Context) (context.Context, context.CancelFunc) { return limited(ctx) }

func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, actLimit, fmt.Errorf("not done within %s", actLimit))
}

// Act does one thing to one node, and says what was done.
func Act[N any](ctx context.Context, m Machines[N], a control.Action) (string, error) {
	if err := a.Check(); err != nil {
		return "", err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	n, err := m.Find(a.Node)
	if err != nil {
		return "", err
	}
	var done string
	switch {
	case a.Kind == control.ActionContact:
		done, err = changeContact(ctx, m, n, a)
	case a.Kind == control.ActionReplaceAgent:
		done, err = replaceAgent(ctx, m, n, a)
	case a.Kind == control.ActionExtendPCR:
		done, err = extendPCR(ctx, m, n, a)
	case a.Kind == control.ActionRuntimePolicy || a.Kind == control.ActionBootPolicy || a.Kind == control.ActionTPMPolicy:
		done, err = changePolicy(ctx, m, n, a)
	case a.Kind == control.ActionResetTPM || a.Kind == control.ActionReimage || control.TwoNodes(a.Kind):
		done, err = takeApart(ctx, m, n, a)
	default:
		done, err = act(ctx, m, n, a)
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", a.Kind, a.Node, err)
	}
	return done, nil
}

func act[N any](ctx context.Context, m Machines[N], n N, a control.Action) (string, error) {
	on, err := m.Running(ctx, n)
	if err != nil {
		return "", err
	}
	enrol := "keylab node enrol " + a.Node
	askAgain := askedAgain(m.Keylime(), m.Planned(n))
	switch a.Kind {
	case control.ActionStop:
		if !on {
			return "it is off already", nil
		}
		return "it is off; its TPM was shut down in order", m.PowerOff(ctx, n, true)
	case control.ActionStart:
		if on {
			return "it runs already", nil
		}
		return powerOn(ctx, m, n, "it runs, and its agent has registered again", askAgain, enrol)
	case control.ActionReboot, control.ActionCrash:
		orderly := a.Kind == control.ActionReboot
		if !on {
			return "", fmt.Errorf("it is off: `keylab node start %s` starts it", a.Node)
		}
		if err := m.PowerOff(ctx, n, orderly); err != nil {
			return "", err
		}
		if orderly {
			return powerOn(ctx, m, n, "it was rebooted: its PCRs are reset, and its TPM's clock goes on", askAgain, enrol)
		}
		return powerOn(ctx, m, n, "it lost its power and runs again: its TPM's clock went back to what it last saved, which Keylime's verifier does not forgive in the pull model",
			enrol, enrol)
	case control.ActionReplaceTPM:
		if on {
			if err := m.PowerOff(ctx, n, true); err != nil {
				return "", err
			}
		}
		if err := m.NewTPM(ctx, n); err != nil {
			return "", err
		}
		if err := m.PowerOn(ctx, n); err != nil {
			return "", err
		}
		return fmt.Sprintf("it has another TPM, with an EK certificate of the lab's CA, and its agent has registered; `keylab node enrol %s` has it trusted", a.Node), nil
	case control.ActionForget:
		return fmt.Sprintf("verifier and registrar know nothing of it any more; `keylab node enrol %s` has it registered and enrolled anew", a.Node), m.Forget(ctx, n)
	case control.ActionReactivate, control.ActionEnrol, control.ActionRestartAgent:
		if !on {
			return "", fmt.Errorf("it is off: `keylab node start %s` starts it", a.Node)
		}
		switch a.Kind {
		case control.ActionReactivate:
			return "the verifier asks it again, and had a good quote", m.Reactivate(ctx, []N{n})
		case control.ActionRestartAgent:
			return "its agent was started again, and has registered", m.RestartAgent(ctx, n)
		}
		return enrolAnew(ctx, m, n)
	}
	return "", fmt.Errorf("nobody knows how to %s a node", a.Kind)
}

// enrolAnew also has the agent register anew where the registrar does not know it as it is: it refuses another EK certificate under a UUID that it knows.
func enrolAnew[N any](ctx context.Context, m Machines[N], n N) (string, error) {
	done := "it was enrolled anew, and the verifier had a good quote"
	stale, err := m.Stale(ctx, n)
	if err != nil {
		return "", err
	}
	if stale {
		if err := m.Forget(ctx, n); err != nil {
			return "", err
		}
		if err := m.RestartAgent(ctx, n); err != nil {
			return "", err
		}
		done = "it was registered anew, with the EK certificate that its TPM has now, and enrolled, and the verifier had a good quote"
	}
	return done, m.EnrolAgain(ctx, n)
}

// powerOn starts a node, and says which command helps where the verifier did not wait for it.
func powerOn[N any](ctx context.Context, m Machines[N], n N, done, remedy, enrol string) (string, error) {
	if err := m.PowerOn(ctx, n); err != nil {
		return "", err
	}
	if m.Delivered(n) {
		done += fmt.Sprintf("; its payload went with its memory: `%s` has it delivered again", enrol)
	}
	up, err := m.GivenUp(ctx, n)
	if err != nil {
		return done, err
	}
	if !up {
		return done + afterStart(m.Keylime(), m.Planned(n)), nil
	}
	return done + fmt.Sprintf("; the verifier had given it up: `%s` has it asked again", remedy), nil
}
