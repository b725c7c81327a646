package plan

import (
	"net/netip"

	"keylab.dev/keylab/lab/spec"
)

// WebhookPort is where the receiver of the verifier's notices listens, on the tenant's host.
const WebhookPort = 8892

// Revocation says whom the verifier tells of an agent that it no longer trusts.
type Revocation struct {
	Agent bool `json:"agent,omitempty" yaml:"agent,omitempty"` // all agents
	// Webhook is where the receiver listens; nil: there is none.
	Webhook *netip.AddrPort `json:"webhook,omitempty" yaml:"webhook,omitempty"`
}

func planRevocation(s spec.Revocation, tenant netip.Addr) *Revocation {
	if !s.Any() {
		return nil
	}
	r := &Revocation{Agent: s.Agent}
	if s.Webhook {
		receiver := netip.AddrPortFrom(tenant, WebhookPort)
		r.Webhook = &receiver
	}
	return r
}

// PayloadPackaged tells whether Keylime's tenant puts what is delivered into a package with the revocation certificate: agents must unpack it, and a
// node's payload is a file in it.
func (p Plan) PayloadPackaged() bool { return p.Keylime.Revocation != nil }
