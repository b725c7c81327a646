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
	Inflict       func(context.Context, []N) error
	Mend          func(context.Context, []N) error // nil: it cannot be mended while the lab runs
	Broke, Mended string                           // what was done, for the user
}

// Break carries out what the user asks for, and says what was done. find knows the nodes by name.
func Break[N any](ctx context.Context, all map[string]Breakage[N], f control.Fault, find func(name string) (N, error)) (string, error) {
	possible := slices.Sorted(maps.Keys(all))
	if err := f.Check(possible...); err != nil {
		return "", err
	}
	kind, ok := all[f.Kind]
	if !ok {
		return "", fmt.Errorf("fault %s is not possible in this lab; possible are %s", f.Kind, strings.Join(possible, ", "))
	}
	var nodes []N
	for _, name := range f.Nodes {
		n, err := find(name)
		if err != nil {
			return "", err
		}
		nodes = append(nodes, n)
	}
	act, done := kind.Inflict, kind.Broke
	if f.Clear {
		act, done = kind.Mend, kind.Mended
	}
	if act == nil {
		return "", fmt.Errorf("fault %s cannot be mended while the lab runs: take it down and up", f.Kind)
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	if err := act(ctx, nodes); err != nil {
		return "", fmt.Errorf("fault %s: %w", f.Kind, err)
	}
	return done, nil
}
