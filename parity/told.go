package parity

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"keylab.dev/keylab/lab/control"
)

// The revocation actions of the lab's agents, in this order: the second one fails. Each keeps what it was told beside itself, where both kinds of agents
// have it: keylab's own runs it in another folder than the Rust agent does.
var toldActions = []struct{ name, end string }{{"one", ""}, {"two", "; exit 3"}, {"three", ""}}

// toldRevocation is the part of the lab's description.
var toldRevocation = func() string {
	var actions []string
	for _, a := range toldActions {
		actions = append(actions, fmt.Sprintf(`{name: %s.sh, inline: "#!/bin/sh\ncat \"$1\" >> \"$0.told\"%s\n"}`, a.name, a.end))
	}
	return "  revocation: {agent: true, actions: [" + strings.Join(actions, ", ") + "]}\n"
}()

// toldCases are about what an agent does of which the verifier has something to tell.
func toldCases() []VerdictCase {
	return []VerdictCase{
		{Name: "good", Told: true},
		{Name: "another node fails", Told: true, do: sequence(atOther(measure(control.Measurement{Kind: control.TamperPCR})), awaitTold),
			mend: atOther(action(control.ActionReboot, control.ActionEnrol))},
	}
}

// aside is the other node with the same kind of agent.
func (m *machine) aside(ctx context.Context) (*machine, error) {
	other := *m
	other.name, other.other = m.other, m.name
	return &other, other.look(ctx)
}

// atOther does something to it. What makes it fail leaves it enrolled as it is: with the key that the verifier signs with.
func atOther(do func(context.Context, *machine) error) func(context.Context, *machine) error {
	return func(ctx context.Context, m *machine) error {
		o, err := m.aside(ctx)
		if err != nil {
			return err
		}
		return do(ctx, o)
	}
}

// toldPatience is how long it may take until agents were told.
const toldPatience = time.Minute

// awaitTold waits until the last action that is to be run has been told of the other node.
func awaitTold(ctx context.Context, m *machine) error {
	ctx, cancel := context.WithTimeoutCause(ctx, toldPatience, fmt.Errorf("%s did not act within %s upon the failure of %s", m.name, toldPatience, m.other))
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		told, err := m.told(ctx, "two")
		if told == toldOfOther {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

// ran says of each action what it was told.
func (m *machine) ran(ctx context.Context) (string, error) {
	var all []string
	for _, a := range toldActions {
		told, err := m.told(ctx, a.name)
		if err != nil {
			return "", err
		}
		all = append(all, a.name+": "+told)
	}
	return strings.Join(all, ", "), nil
}

const toldOfOther = "told of the other node"

// told is what one action was told of, however often.
func (m *machine) told(ctx context.Context, action string) (string, error) {
	file := filepath.Join(m.lab.Dir().Agent(m.name), "secure", "unzipped", action+".sh.told")
	cmd, err := m.lab.Command(ctx, m.name, "sh", "-c", `[ ! -e "$0" ] || cat "$0"`, file)
	if err != nil {
		return "", err
	}
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("look what %s of %s was told: %w", action, m.name, err)
	}
	if len(out) == 0 {
		return "not run", nil
	}
	o, err := m.aside(ctx)
	if err != nil {
		return "", err
	}
	if strings.Contains(string(out), o.uuid) && strings.Contains(string(out), `"type"`) {
		return toldOfOther, nil
	}
	return "told of something else", nil
}
