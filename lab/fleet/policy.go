package fleet

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"keylab.dev/keylab/ima"
	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// Policymaker knows what it takes to change a node's policies.
type Policymaker[N any] interface {
	// Policies is what a change of a node's policies needs. The node is on.
	Policies(ctx context.Context, n N) (Policies, error)
}

// Policies are those of one node of a running lab, and what it takes to make them anew.
type Policies struct {
	Dir      state.Dir
	Node     plan.Node
	UUID     string
	Tools    *keylime.Configured // whose tools run on this machine
	Verifier *keylime.VerifierClient
	// Measured is the node's IMA list, RefState the reference state of its firmware, PCRs its PCRs in the SHA-256 bank; all as they are now.
	Measured func(ctx context.Context) (*control.IMAList, error)
	RefState func(ctx context.Context) ([]byte, error)
	PCRs     func(ctx context.Context, pcrs ...int) (map[int][]byte, error)
}

// errNotEnrolled says why the verifier has no policy to change.
var errNotEnrolled = errors.New("the verifier has no such policy of it: it is not enrolled")

func changePolicy[N any](ctx context.Context, m Machines[N], n N, a control.Action) (string, error) {
	if err := mustBeOn(ctx, m, n, a.Node); err != nil {
		return "", err
	}
	p, err := m.Policies(ctx, n)
	if err != nil {
		return "", err
	}
	const again = "; `keylab node reactivate %s` has it asked again, if the verifier had given it up"
	switch a.Kind {
	case control.ActionRuntimePolicy:
		done, err := p.runtime(ctx)
		return done + fmt.Sprintf(again, a.Node), err
	case control.ActionBootPolicy:
		return "the verifier has the reference state of the firmware that it has now" + fmt.Sprintf(again, a.Node), p.boot(ctx)
	}
	done, err := p.tpm(ctx, *a.PCR)
	if err != nil {
		return "", err
	}
	return done, m.EnrolAgain(ctx, n)
}

// runtime allows, beside the files of the specification, all that the node has measured, as who takes a machine's state for a good one.
func (p Policies) runtime(ctx context.Context) (string, error) {
	if p.Node.IMA == nil {
		return "", fmt.Errorf("it measures no files: set ima.enabled: true in the lab's file")
	}
	list, err := p.Measured(ctx)
	if err != nil {
		return "", err
	}
	n, err := WithAllowed(p.Dir, p.Node)
	if err != nil {
		return "", err
	}
	specified := len(p.Node.IMA.Files)
	allowedBefore := len(n.IMA.Files)
	for _, e := range list.Entries {
		entry := ima.Entry{Path: e.Path, Signature: e.Signature}
		if entry.Digest, err = ima.ParseDigest(e.Digest); err != nil {
			return "", fmt.Errorf("the IMA list's entry of %s: %w", e.Path, err)
		}
		if !allowed(n, entry) {
			n.IMA.Files = append(n.IMA.Files, plan.IMAFile{Path: e.Path, Digest: e.Digest, Later: true})
		}
	}
	data, err := json.Marshal(n.IMA.Files[specified:])
	if err != nil {
		return "", fmt.Errorf("encode what is allowed: %w", err)
	}
	if err := MakePolicy(ctx, p.Dir, p.Tools, n); err != nil {
		return "", err
	}
	policy, err := os.ReadFile(runtimePolicy(p.Dir, n))
	if err != nil {
		return "", fmt.Errorf("read the runtime policy: %w", err)
	}
	if err := p.Verifier.UpdateRuntimePolicy(ctx, p.UUID, policy); err != nil {
		return "", policyError(err)
	}
	if err := atomicfile.Write(allowedFile(p.Dir, p.Node), data, 0o600); err != nil {
		return "", err
	}
	return fmt.Sprintf("the verifier has a runtime policy of %d files, %d of them new", len(n.IMA.Files), len(n.IMA.Files)-allowedBefore), nil
}

// boot takes the firmware that the node has now for a good one.
func (p Policies) boot(ctx context.Context) error {
	if p.Node.MeasuredBoot == nil {
		return fmt.Errorf("it does not measure its boot: set measuredBoot.enabled: true in the lab's file")
	}
	state, err := p.RefState(ctx)
	if err != nil {
		return fmt.Errorf("its reference state: %w", err)
	}
	return policyError(p.Verifier.UpdateMeasuredBootPolicy(ctx, p.UUID, state))
}

// tpm has the node enrolled with the value that a PCR has now, the next time: the verifier has no way to change the TPM policy of an agent that it knows
// (AgentsHandler.put in cloud_verifier_tornado.py), and `keylime_tenant -c update` deletes and adds it too.
func (p Policies) tpm(ctx context.Context, pcr int) (string, error) {
	values, err := p.PCRs(ctx, pcr)
	if err != nil {
		return "", err
	}
	value := hex.EncodeToString(values[pcr])
	policy, err := json.Marshal(map[string][]string{strconv.Itoa(pcr): {value}})
	if err != nil {
		return "", fmt.Errorf("encode the TPM policy: %w", err)
	}
	if err := os.MkdirAll(p.Dir.Policies(), 0o700); err != nil {
		return "", fmt.Errorf("make the folder for policies: %w", err)
	}
	if err := atomicfile.Write(tpmPolicyFile(p.Dir, p.Node), policy, 0o600); err != nil {
		return "", err
	}
	return fmt.Sprintf("it was enrolled anew, with a TPM policy by which PCR %d is %s, and the verifier had a good quote", pcr, value), nil
}

func policyError(err error) error {
	if errors.Is(err, keylime.ErrNotFound) {
		return fmt.Errorf("%w: %w", errNotEnrolled, err)
	}
	return err
}

// What a lab's run has changed of a node's policies is beside those that it was made with, which `up` deletes.
func allowedFile(dir state.Dir, n plan.Node) string {
	return filepath.Join(dir.Policies(), "allowed-"+n.Name+".json")
}

func tpmPolicyFile(dir state.Dir, n plan.Node) string {
	return filepath.Join(dir.Policies(), "tpm-"+n.Name+".json")
}

// WithAllowed is the node of the plan with the files that its runtime policy has come to allow in this run of the lab, and the key that it has.
func WithAllowed(dir state.Dir, n plan.Node) (plan.Node, error) {
	data, err := os.ReadFile(allowedFile(dir, n))
	if errors.Is(err, fs.ErrNotExist) {
		data, err = []byte("[]"), nil
	}
	var more []plan.IMAFile
	if err == nil {
		err = json.Unmarshal(data, &more)
	}
	if err != nil {
		return n, fmt.Errorf("read what the runtime policy of %s allows beside the specification: %w", n.Name, err)
	}
	if n.IMA != nil {
		ima := *n.IMA
		ima.Files = append(slices.Clone(ima.Files), more...)
		n.IMA = &ima
	}
	return withKey(dir, n)
}

// MarkAllowed marks the entries of a node's list that its runtime policy allows now.
func MarkAllowed(dir state.Dir, n plan.Node, list *control.IMAList) error {
	n, err := WithAllowed(dir, n)
	if err != nil || n.IMA == nil {
		return err
	}
	for i, e := range list.Entries {
		digest, err := ima.ParseDigest(e.Digest)
		if err != nil {
			return fmt.Errorf("the IMA list's entry of %s: %w", e.Path, err)
		}
		list.Entries[i].Allowed = allowed(n, ima.Entry{Path: e.Path, Digest: digest, Signature: e.Signature})
	}
	return nil
}

// tpmPolicy is the TPM policy that a node was given in this run of the lab; "": none.
func tpmPolicy(dir state.Dir, n plan.Node) (string, error) {
	data, err := os.ReadFile(tpmPolicyFile(dir, n))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the TPM policy of %s: %w", n.Name, err)
	}
	return strings.TrimSpace(string(data)), nil
}
