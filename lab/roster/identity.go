package roster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// identity is what cannot change while a lab's folder lives on: its CA has issued certificates, its TPMs have keys.
type identity struct {
	EKCA  plan.EKCA               `json:"ek_ca"`
	Nodes map[string]nodeIdentity `json:"nodes"`
}

type nodeIdentity struct {
	TPM plan.TPM `json:"tpm"`
	EK  plan.EK  `json:"ek"`
}

func identityOf(p plan.Plan) identity {
	id := identity{EKCA: p.EKCA, Nodes: map[string]nodeIdentity{}}
	id.EKCA.Stranger = false // the stranger's CA is made when a node first needs it
	for _, n := range p.Nodes {
		id.Nodes[n.Name] = nodeIdentity{n.TPM, n.EK}
	}
	return id
}

func readIdentity(dir state.Dir) (identity, bool, error) {
	var id identity
	data, err := os.ReadFile(dir.Identity())
	if errors.Is(err, fs.ErrNotExist) {
		return id, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &id)
	}
	if err != nil {
		return id, false, fmt.Errorf("read what lab %s was made from: %w (`keylab wipe %s` starts afresh)", dir.Lab, err, dir.Lab)
	}
	return id, true, nil
}

// Check refuses a plan that wants other TPMs or another CA than the lab's folder holds.
func Check(dir state.Dir, p plan.Plan) error {
	old, found, err := readIdentity(dir)
	if err != nil || !found {
		return err
	}
	want := identityOf(p)
	what := ""
	if !same(old.EKCA, want.EKCA) {
		what = "its EK CA"
	}
	for name, n := range want.Nodes {
		if o, ok := old.Nodes[name]; ok && !same(o, n) {
			what = "the TPM of " + name
		}
	}
	if what == "" {
		return nil
	}
	return fmt.Errorf("lab %q has a folder from an earlier run, in which %s was made from another specification: `keylab wipe %s` deletes it, or take another name", dir.Lab, what, dir.Lab)
}

// remember notes the plan's TPMs beside those of nodes that are not in it now.
func remember(dir state.Dir, p plan.Plan) error {
	id, _, err := readIdentity(dir)
	if err != nil {
		return err
	}
	want := identityOf(p)
	for name, n := range id.Nodes {
		if _, ok := want.Nodes[name]; !ok {
			want.Nodes[name] = n
		}
	}
	return write(dir, want)
}

func write(dir state.Dir, id identity) error {
	data, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("encode what the lab is made from: %w", err)
	}
	return atomicfile.Write(dir.Identity(), data, 0o600)
}

// same compares by the written form, in which equal instants and equal lists are equal.
func same(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}
