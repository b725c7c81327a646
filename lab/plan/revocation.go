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
	// Actions are the names of the programs that agents have in their packages and run when they are told.
	Actions []string `json:"actions,omitempty" yaml:"actions,omitempty"`
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
	for _, a := range s.Actions {
		r.Actions = append(r.Actions, a.Name)
	}
	return r
}

// HasActions tells whether agents have revocation actions in their packages.
func (p Plan) HasActions() bool {
	return p.Keylime.Revocation != nil && len(p.Keylime.Revocation.Actions) > 0
}

// PayloadPackaged tells whether Keylime's tenant puts what is delivered into a package with the revocation certificate: agents must unpack it, and a
// node's payload is a file in it.
func (p Plan) PayloadPackaged() bool { return p.Keylime.Revocation != nil }
