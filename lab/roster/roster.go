package roster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
	"keylab.dev/keylab/lab/state"
)

// Write keeps specification and plan in the lab's folder, and remembers what the TPMs are made from.
func Write(dir state.Dir, s spec.Spec, p plan.Plan) error {
	written, err := spec.Marshal(s)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(dir.Spec(), written, 0o600); err != nil {
		return err
	}
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the plan: %w", err)
	}
	if err := atomicfile.Write(dir.Plan(), append(data, '\n'), 0o600); err != nil {
		return err
	}
	return remember(dir, p)
}

// ReadSpec is the specification with the nodes that the lab has now.
func ReadSpec(dir state.Dir) (spec.Spec, error) {
	data, err := os.ReadFile(dir.Spec())
	if err != nil {
		return spec.Spec{}, fmt.Errorf("read the lab's specification: %w", err)
	}
	return spec.Decode(dir.Spec(), data)
}

// Reserve remembers what the TPMs of a plan are made from before there are any, so that none is left that nobody knows. undo takes back what is new: the
// TPM and the keys of a node that the lab's folder did not know before.
func Reserve(dir state.Dir, p plan.Plan, node string) (undo func() error, err error) {
	if err := Check(dir, p); err != nil {
		return nil, err
	}
	before, _, err := readIdentity(dir)
	if err != nil {
		return nil, err
	}
	if _, known := before.Nodes[node]; known {
		return func() error { return nil }, nil
	}
	return func() error { return errors.Join(discard(dir, node), write(dir, before)) }, remember(dir, p)
}

// discard deletes all that there is of a node in the lab's folder, but its log.
func discard(dir state.Dir, node string) error {
	notes, err := filepath.Glob(dir.TPM(node) + ".*") // what is known of the TPM: its seed, that it was replaced
	if err != nil {
		return fmt.Errorf("delete what there is of %s: %w", node, err)
	}
	for _, path := range append(notes, dir.TPM(node), dir.Agent(node), dir.Measured(node)) {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("delete what there is of %s: %w", node, err)
		}
	}
	return nil
}

// WithAgent works out specification and plan with another agent on one node: now is the plan with the nodes that the lab has, and made the one that its
// services were made for, which may not do for that agent.
func WithAgent(dir state.Dir, now, made plan.Plan, name string, kind spec.AgentKind, path string) (kept spec.Spec, next plan.Plan, err error) {
	if kept, err = ReadSpec(dir); err != nil {
		return kept, next, err
	}
	if kept, err = kept.WithAgent(name, kind, path); err != nil {
		return kept, next, err
	}
	if err := kept.Validate(); err != nil {
		return kept, next, err
	}
	if next, err = now.WithAgent(kept, name); err != nil {
		return kept, next, err
	}
	return kept, next, made.Serves(next)
}
