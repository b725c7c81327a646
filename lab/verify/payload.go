package verify

import (
	"context"
	"errors"
	"fmt"

	"keylab.dev/keylab/keylime"
)

// Payload is what was meant for a node, and what is there: digests and sizes alone.
type Payload struct {
	Meant *Digest // nil: the node is to get none
	Found *Digest // nil: nothing has arrived, or it is gone
	// Tmpfs tells whether what was found is in memory and not on a disk, Private whether only the agent's user can read it.
	Tmpfs, Private bool
}

// Digest tells contents apart without showing them.
type Digest struct {
	SHA256 string // hexadecimal
	Size   int64  // bytes
}

func (d Digest) String() string { return fmt.Sprintf("sha256 %s, %d bytes", shorten(d.SHA256), d.Size) }

// payloads proves point 6, in labs that have a payload: every node whose quote was good has what was meant for it, and no other node has anything.
func (v *verification) payloads() []check {
	if !v.plan.HasPayload() {
		return nil
	}
	var checks []check
	for _, n := range v.nodes {
		c := check{"payload-delivered", pointPayload, n.Name, func(ctx context.Context) (string, error) { return v.delivered(ctx, n) }}
		if why := withheld(n); why != "" {
			c = check{"payload-withheld", pointPayload, n.Name, func(ctx context.Context) (string, error) { return v.withheld(ctx, n, why) }}
		}
		checks = append(checks, c)
	}
	return checks
}

// withheld says why a node is to have no payload, "" where it is to have one.
func withheld(n Node) string {
	switch {
	case n.Payload == nil:
		return "none is meant for it"
	case n.Enrolled.Done && !n.Enrolled.OK:
		return "the tenant refused it"
	}
	return ""
}

// withheld checks that nothing has arrived at a node that is to have nothing.
func (v *verification) withheld(ctx context.Context, n Node, why string) (string, error) {
	p, err := n.FindPayload(ctx)
	if err != nil {
		return "", fmt.Errorf("look for a payload on %s: %w", n.Name, err)
	}
	if p.Found != nil {
		return "", fmt.Errorf("a payload is there (%s), although %s", p.Found, why)
	}
	return why + ", and nothing is there", nil
}

// delivered checks that what arrived is what was meant, in memory, for the agent's user alone, and that the verifier had a good quote before.
func (v *verification) delivered(ctx context.Context, n Node) (string, error) {
	p, err := n.FindPayload(ctx)
	if err != nil {
		return "", fmt.Errorf("look for the payload on %s: %w", n.Name, err)
	}
	a, err := v.target.Verifier().Agent(ctx, n.UUID)
	if errors.Is(err, keylime.ErrNotFound) {
		a, err = &keylime.VerifierAgent{}, nil
	}
	if err != nil {
		return "", fmt.Errorf("ask the verifier for agent %s: %w", n.UUID, err)
	}
	switch {
	case p.Found != nil && a.AttestationCount == 0:
		return "", fmt.Errorf("a payload is there (%s), although the verifier has had no good quote", p.Found)
	case a.AttestationCount == 0:
		return "", errors.New("nothing is there: the verifier, which has half of its key, has had no good quote")
	case p.Found == nil:
		return "", fmt.Errorf("nothing is there: it was in the machine's memory, which is empty after a start, and Keylime's tenant sends it only when "+
			"it enrols a node: `keylab node enrol %s`", n.Name)
	case *p.Found != *p.Meant:
		return "", fmt.Errorf("another payload is there (%s) than was meant for this node (%s)", p.Found, p.Meant)
	case !p.Tmpfs:
		return "", errors.New("it is there, but on a disk: not in a tmpfs")
	case !p.Private:
		return "", errors.New("it is there, but other users can read it")
	}
	return fmt.Sprintf("%s, as was meant for this node; in memory, for the agent alone", p.Found), nil
}
