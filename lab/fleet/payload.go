package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"

	"keylab.dev/keylab/agent"
	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
	"keylab.dev/keylab/lab/verify"
)

// Request is what the tenant is asked to do with a node: to enrol it, and to encrypt its payload for it.
func Request(dir state.Dir, p plan.Plan, n plan.Node, uuid string) keylime.Request {
	r := keylime.Request{UUID: uuid}
	file := ""
	if n.Payload != nil {
		file = dir.Payload(n.Payload.Name)
	}
	if !p.PayloadPackaged() {
		r.PayloadFile = file
		return r
	}
	r.CertDir = dir.Revocation()
	switch {
	case file != "":
		r.IncludeDir = filepath.Dir(file) // the actions are in there too
	case p.HasActions():
		r.IncludeDir = dir.Action("")
	}
	return r
}

// EnrolAtOnce is how many enrolments may run at the same time, 0 for the usual number: Keylime's tenant does not lock the store of its authority.
func EnrolAtOnce(p plan.Plan) int {
	if p.PayloadPackaged() {
		return 1
	}
	return 0
}

// PayloadFile is the name of a node's payload in its agent's folder.
func PayloadFile(dir state.Dir, p plan.Plan) string {
	if p.PayloadPackaged() {
		return filepath.Base(dir.Payload(""))
	}
	return agent.PayloadFile
}

// Payload compares what was meant for a node with what was found in its agent's secure folder, nil when nothing was.
func Payload(dir state.Dir, n plan.Node, found *agent.StoredPayload) (verify.Payload, error) {
	var p verify.Payload
	if found != nil {
		p.Found, p.Tmpfs, p.Private = &verify.Digest{SHA256: found.SHA256, Size: found.Size}, found.Tmpfs, found.Private
	}
	if n.Payload == nil {
		return p, nil
	}
	data, err := os.ReadFile(dir.Payload(n.Payload.Name))
	if err != nil {
		return p, fmt.Errorf("read what is meant for %s: %w", n.Name, err)
	}
	sum := sha256.Sum256(data)
	p.Meant = &verify.Digest{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(data))}
	return p, nil
}

// AwaitPayload waits until what was meant for an attested node has arrived: the verifier hands its half of the key out after the first good quote.
func AwaitPayload(ctx context.Context, node string, look func(context.Context) (verify.Payload, error)) error {
	return Await(ctx, "the payload to arrive at "+node, func(ctx context.Context) (string, error) {
		p, err := look(ctx)
		switch {
		case err != nil || p.Meant == nil:
			return "", err
		case p.Found == nil:
			return "nothing is there", nil
		case *p.Found != *p.Meant:
			return fmt.Sprintf("what is there is another (%s) than was meant (%s)", p.Found, p.Meant), nil
		}
		return "", nil
	})
}
