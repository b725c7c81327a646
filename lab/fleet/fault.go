package fleet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"keylab.dev/keylab/lab/control"
)

// Breakage is one thing of a lab that can be broken on purpose, and mended. N is the substrate's node.
type Breakage[N any] struct {
	Inflict       func(context.Context, Case[N]) error
	Mend          func(context.Context, Case[N]) error // nil: it is over once it was inflicted
	Broke, Mended string                               // what was done, for the user; %s in it is the component
	Told          string                               // likewise, what the verifier was told after mending; "" nothing
	// Impossible says why this lab cannot do it; "" where it can.
	Impossible string
}

// Case is one fault, as it was asked for.
type Case[N any] struct {
	control.Fault
	On []N // the nodes that it is about
}

// StartsOrStops tells whether a fault starts or stops an agent or a TPM, or its mend does. Beside a reboot of the node, which does so too, a node could else end
// with two agents. Other faults do not wait for what is done to the node: that may itself be waiting for one to be mended.
func StartsOrStops(kind string) bool {
	switch kind {
	case control.FaultDeadAgent, control.FaultAgentKilled, control.FaultAgentRestart, control.FaultDeadTPM:
		return true
	}
	return false
}

// Break carries out what the user asks for, and says what was done. find knows the nodes by name.
func Break[N any](ctx context.Context, all map[string]Breakage[N], f control.Fault, find func(name string) (N, error)) (string, error) {
	if err := f.Check(); err != nil {
		return "", err
	}
	kind, ok := all[f.Kind]
	if !ok || kind.Impossible != "" {
		why := kind.Impossible
		if why == "" {
			why = "its substrate knows no way"
		}
		return "", fmt.Errorf("fault %s is not possible in this lab: %s; possible are %s", f.Kind, why, strings.Join(possible(all), ", "))
	}
	c := Case[N]{Fault: f}
	for _, name := range f.Nodes {
		n, err := find(name)
		if err != nil {
			return "", err
		}
		c.On = append(c.On, n)
	}
	act, done := kind.Inflict, kind.Broke+settings(f)
	if f.Clear {
		act, done = kind.Mend, kind.Mended
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	if err := act(ctx, c); err != nil {
		return "", fmt.Errorf("fault %s: %w", f.Kind, err)
	}
	if f.Clear && kind.Told != "" {
		if f.Leave {
			done += "; the verifier was told nothing"
		} else {
			done += "; " + kind.Told
		}
	}
	return strings.ReplaceAll(done, "%s", f.Component), nil
}

// settings are a fault's options with their values, for a message.
func settings(f control.Fault) string {
	kind, _ := control.FaultKindOf(f.Kind)
	var list []string
	for _, o := range kind.Options {
		list = append(list, o.Name+" "+f.Option(o.Name))
	}
	if len(list) == 0 {
		return ""
	}
	return " (" + strings.Join(list, ", ") + ")"
}

func possible[N any](all map[string]Breakage[N]) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name].Impossible == "" {
			names = append(names, name)
		}
	}
	return names
}

// NothingLedToAgents is why faults of the way to agents are not possible in the push model.
const NothingLedToAgents = "in the push model nobody connects to an agent"
