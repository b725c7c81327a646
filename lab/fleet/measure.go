package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-tpm/tpm2/transport"

	"keylab.dev/keylab/bootlog"
	"keylab.dev/keylab/ima"
	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/measure"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// Measured makes what a node of the plan measures, with its logs in a folder of the lab's.
func Measured(dir state.Dir, lab string, n plan.Node, open func() (transport.TPMCloser, error)) (*measure.Node, error) {
	return NewMeasured(measure.Options{Dir: dir.Measured(n.Name), OpenTPM: open}, lab, n)
}

// NewMeasured makes what a node of the plan measures, with the other options as they are. The nodes of a lab are machines of one purchase.
func NewMeasured(o measure.Options, lab string, n plan.Node) (*measure.Node, error) {
	if n.IMA != nil {
		o.IMA = &measure.IMA{Template: ima.Template(n.IMA.Template)}
		for _, f := range n.IMA.Files {
			if f.Later {
				continue
			}
			digest, err := ima.ParseDigest(f.Digest)
			if err != nil {
				return nil, fmt.Errorf("file %s of %s: %w", f.Path, n.Name, err)
			}
			o.IMA.Files = append(o.IMA.Files, measure.File{Path: f.Path, Digest: digest})
		}
	}
	if b := n.MeasuredBoot; b != nil {
		m := bootlog.NewMachine(lab, n.Name)
		m.Firmware.Version, m.SecureBoot, m.CommandLine = b.FirmwareVersion, b.SecureBoot, b.CommandLine
		o.Machine = &m
	}
	measured, err := measure.New(o)
	if err != nil {
		return nil, fmt.Errorf("what %s measures: %w", n.Name, err)
	}
	return measured, nil
}

// allowList is the text, in the form of sha256sum, of what the runtime policy of a node allows.
func allowList(n plan.Node) string {
	var b strings.Builder
	if n.MeasuredBoot == nil {
		// The aggregate of PCRs that nobody extended. Where there is a boot log, the verifier works the aggregate out from that.
		none := sha256.Sum256(make([]byte, 10*sha256.Size))
		fmt.Fprintf(&b, "%x  %s\n", none, ima.BootAggregate)
	}
	for _, f := range n.IMA.Files {
		fmt.Fprintf(&b, "%s  %s\n", strings.TrimPrefix(f.Digest, "sha256:"), strings.ReplaceAll(f.Path, " ", "_"))
	}
	return b.String()
}

// policyName is that of the files of a runtime policy, which nodes with the same files share.
func policyName(n plan.Node) string {
	sum := sha256.Sum256([]byte(allowList(n)))
	name := "runtime-" + hex.EncodeToString(sum[:8])
	if n.IMA.Template == string(ima.TemplateSig) {
		name += "-signed" // it has the lab's key too
	}
	return name
}

// MakePolicies has Keylime's own tool make the runtime policies of all nodes that measure files, anew.
func MakePolicies(ctx context.Context, dir state.Dir, c *keylime.Configured, p plan.Plan) error {
	if err := os.MkdirAll(dir.Policies(), 0o700); err != nil {
		return fmt.Errorf("make the folder for policies: %w", err)
	}
	// The folder itself stays: a container may have it mounted already.
	last, err := os.ReadDir(dir.Policies())
	if err != nil {
		return fmt.Errorf("delete the policies of the last run: %w", err)
	}
	for _, f := range last {
		if err := os.RemoveAll(filepath.Join(dir.Policies(), f.Name())); err != nil {
			return fmt.Errorf("delete the policies of the last run: %w", err)
		}
	}
	for _, n := range p.Nodes {
		if err := MakePolicy(ctx, dir, c, n); err != nil {
			return err
		}
	}
	return nil
}

// MakePolicy makes the runtime policy of one node that measures files, unless there is that of a node with the same ones.
func MakePolicy(ctx context.Context, dir state.Dir, c *keylime.Configured, n plan.Node) error {
	if n.IMA == nil {
		return nil
	}
	policy := runtimePolicy(dir, n)
	if _, err := os.Stat(policy); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the runtime policy of %s: %w", n.Name, err)
	}
	if err := os.MkdirAll(dir.Policies(), 0o700); err != nil {
		return fmt.Errorf("make the folder for policies: %w", err)
	}
	list := filepath.Join(dir.Policies(), policyName(n)+".txt")
	if err := atomicfile.Write(list, []byte(allowList(n)), 0o600); err != nil {
		return err
	}
	var keys []string
	n, err := withKey(dir, n)
	if err != nil {
		return err
	}
	if n.IMA.Key != nil {
		key, err := writeVerificationKey(dir, n)
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	cmd := c.RuntimePolicy(list, policy, keys...).Exec(ctx)
	out, err := cmd.CombinedOutput()
	if err == nil {
		_, err = os.Stat(policy)
	}
	if err != nil {
		return fmt.Errorf("make the runtime policy of %s (%s): %w\n%s", n.Name, strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

func runtimePolicy(dir state.Dir, n plan.Node) string {
	return filepath.Join(dir.Policies(), policyName(n)+".json")
}

// AddPolicies puts the policies by which the verifier shall judge what a node measures into the request that enrols it. The tenant adds the PCRs that
// they need to the request's TPM policy (process_policy in keylime/cli/policies.py). The reference state, which refState gives, is written now: it is that
// of the firmware which the node has now.
func AddPolicies(r *keylime.Request, dir state.Dir, n plan.Node, refState func() ([]byte, error)) error {
	n, err := WithAllowed(dir, n)
	if err != nil {
		return err
	}
	if r.TPMPolicy, err = tpmPolicy(dir, n); err != nil {
		return err
	}
	if n.IMA != nil {
		r.RuntimePolicyFile = runtimePolicy(dir, n)
	}
	if n.MeasuredBoot == nil {
		return nil
	}
	state, err := refState()
	if err != nil {
		return fmt.Errorf("the reference state of %s: %w", n.Name, err)
	}
	if err := os.MkdirAll(dir.Policies(), 0o700); err != nil {
		return fmt.Errorf("make the folder for policies: %w", err)
	}
	r.MBPolicyFile = filepath.Join(dir.Policies(), "boot-"+n.Name+".json")
	return atomicfile.Write(r.MBPolicyFile, state, 0o600)
}
