package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/plan"
)

// GivenUp tells whether the verifier knows an agent and trusts it no more, until somebody tells it to.
func GivenUp(ctx context.Context, v *keylime.VerifierClient, uuid string) (bool, error) {
	a, err := v.Agent(ctx, uuid)
	if errors.Is(err, keylime.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask the verifier for %s: %w", uuid, err)
	}
	return a.Untrusted() && !a.Overdue(), nil
}

// Reactivate does what an operator would after a repair, and waits until the verifier trusts the nodes again: one that has given an agent up asks it no
// more by itself. In the push model nothing is to be done for an agent that is overdue, whose next good evidence makes it trusted; for one that has failed
// nothing helps but to be enrolled anew, unless the lab's options have failures forgiven, and the wait ends at once. The verifier may also give an agent up
// only now, for a last answer from before the repair. uuids are by the nodes' names; one that the verifier does not know was never enrolled, and is passed
// over.
func Reactivate(ctx context.Context, v *keylime.VerifierClient, k plan.Keylime, uuids map[string]string) error {
	before := map[string]int{}
	return Await(ctx, "the verifier to attest "+strings.Join(slices.Sorted(maps.Keys(uuids)), " and ")+" again", func(ctx context.Context) (string, error) {
		var missing []string
		for _, name := range slices.Sorted(maps.Keys(uuids)) {
			uuid := uuids[name]
			a, err := v.Agent(ctx, uuid)
			if errors.Is(err, keylime.ErrNotFound) {
				continue
			}
			if err != nil {
				return "", fmt.Errorf("ask the verifier for %s: %w", name, err)
			}
			if a.Push() && a.Untrusted() && !a.Overdue() && !forgives(k) {
				return "", Hopeless(fmt.Errorf("%s has failed, which the verifier does not forget in the push model: `keylab node enrol %s` has it trusted again", name, name))
			}
			if a.Untrusted() {
				if err := v.Reactivate(ctx, uuid); err != nil {
					return "", fmt.Errorf("reactivate %s at the verifier: %w", name, err)
				}
				delete(before, name)
				missing = append(missing, fmt.Sprintf("%s was given up (%s), and is asked again", name, a.Verdict()))
				continue
			}
			if first, ok := before[name]; !ok {
				before[name] = a.AttestationCount
				missing = append(missing, name+" is being asked")
			} else if a.AttestationCount <= first {
				missing = append(missing, name+" is "+a.Verdict())
			}
		}
		return strings.Join(missing, "; "), nil
	})
}

// ForgetAll has the verifier delete an agent that is to be enrolled anew, and verifier and registrar those that the node was before its TPM was replaced.
func ForgetAll(ctx context.Context, v *keylime.VerifierClient, r *keylime.RegistrarClient, uuid string, former []string) error {
	for _, id := range append(slices.Clone(former), uuid) {
		if err := forget(ctx, v, id); err != nil {
			return err
		}
	}
	for _, id := range former {
		if err := r.Delete(ctx, id); err != nil && !errors.Is(err, keylime.ErrNotFound) {
			return fmt.Errorf("have the registrar forget %s: %w", id, err)
		}
	}
	return nil
}

// Forget has verifier and registrar delete an agent, and those that the node was before its TPM was replaced. The verifier is first: it would go on
// trusting an agent that the registrar no longer knows.
func Forget(ctx context.Context, v *keylime.VerifierClient, r *keylime.RegistrarClient, uuid string, former []string) error {
	if err := ForgetAll(ctx, v, r, uuid, former); err != nil {
		return err
	}
	if err := r.Delete(ctx, uuid); err != nil && !errors.Is(err, keylime.ErrNotFound) {
		return fmt.Errorf("have the registrar forget %s: %w", uuid, err)
	}
	return nil
}

// forget has the verifier delete an agent, and returns when it is gone. It is no error when the verifier does not know it. It is told once: before 7.14 the
// second word deletes an agent at once (states.TERMINATED in cloud_verifier_tornado.py), whose quote that is still under way then leaves its TPM's clock in
// memory, and the next agent of this UUID fails by that.
func forget(ctx context.Context, v *keylime.VerifierClient, uuid string) error {
	told := false
	return Await(ctx, "the verifier to forget "+uuid, func(ctx context.Context) (string, error) {
		var err error
		if told {
			_, err = v.Agent(ctx, uuid)
		} else {
			var gone bool
			if gone, err = v.Delete(ctx, uuid); gone {
				return "", nil
			}
			told = err == nil
		}
		if errors.Is(err, keylime.ErrNotFound) {
			return "", nil
		}
		return "it ends a quote that is under way", err
	})
}
