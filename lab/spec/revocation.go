package spec

import "fmt"

// Revocation says whom the verifier tells of an agent that it no longer trusts. In a lab with any of it the tenant makes each agent's payload a package
// with the certificate by which the verifier's word is checked (keylime_tenant --cert).
type Revocation struct {
	// It tells all agents (POST /notifications/revocation).
	Agent bool `yaml:"agent,omitempty"`
	// It tells a receiver on the services network, whose list `keylab events` prints.
	Webhook bool `yaml:"webhook,omitempty"`
}

// Any tells whether anybody is told.
func (r Revocation) Any() bool { return r.Agent || r.Webhook }

func (c *checker) revocation() {
	r := c.spec.Keylime.Revocation
	if !r.Any() {
		return
	}
	if c.spec.Keylime.Mode == "push" {
		c.add("keylime.revocation", "is for the mode pull only, in which agents get the certificate for it; keylime.mode is push", "")
	}
	for i, n := range c.spec.EffectiveNodes() {
		if !n.Payload.Autorun {
			continue
		}
		path := "payload.autorun"
		if !n.SharedPayload {
			path = fmt.Sprintf("nodes[%d].payload.autorun", i)
		}
		c.add(path, "does not go with keylime.revocation: Keylime's tenant then makes the archive, and puts the payload into it as a file", "")
		return
	}
}
