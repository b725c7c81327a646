package spec

import (
	"fmt"
	"slices"
)

// Revocation says whom the verifier tells of an agent that it no longer trusts. In a lab with any of it the tenant makes each agent's payload a package
// with the certificate by which the verifier's word is checked (keylime_tenant --cert).
type Revocation struct {
	// It tells all agents (POST /notifications/revocation).
	Agent bool `yaml:"agent,omitempty"`
	// It tells a receiver on the services network, whose list `keylab events` prints.
	Webhook bool `yaml:"webhook,omitempty"`
	// Programs in every agent's package, which an agent that is told runs, one after the other until one fails: the package's action_list names them.
	Actions []RevocationAction `yaml:"actions,omitempty" jsonschema:"maxItems=16"`
}

// MaxAction is the largest revocation action, in bytes.
const MaxAction = 64 << 10

// RevocationAction is a program that agents run when the verifier tells them of one that it no longer trusts. It has the agent's rights and folder, and one
// argument: a file with what the verifier said, as JSON.
type RevocationAction struct {
	// Its name in the package.
	Name string `yaml:"name" jsonschema:"required,maxLength=64,pattern=^[A-Za-z0-9_][A-Za-z0-9_.-]*$"`
	// The program: an absolute path, or one relative to this file. At most 64 KiB.
	File string `yaml:"file,omitempty" jsonschema:"maxLength=4096"`
	// The program itself, as the text of a script, in place of a file.
	Inline string `yaml:"inline,omitempty" jsonschema:"content,maxLength=16384"`
}

// Any tells whether anybody is told.
func (r Revocation) Any() bool { return r.Agent || r.Webhook }

// packaged are the names of what is in a package beside actions: the payload, and what Keylime's tenant and the agents put there.
var packaged = []string{
	"payload", "action_list", "autorun.sh", "decrypted_payload", "derived_tci_key", "cacert.crt", "RevocationNotifier-cert.crt", "RevocationNotifier-private.pem",
}

func (c *checker) revocation() {
	r := c.spec.Keylime.Revocation
	c.actions(r)
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

// actions finds actions that nobody would run, and those that are two at once or half of one.
func (c *checker) actions(r Revocation) {
	const path = "keylime.revocation.actions"
	if len(r.Actions) == 0 {
		return
	}
	if !r.Agent {
		c.add(path, "are run by agents that are told, and keylime.revocation.agent is false", "")
	}
	first := map[string]int{}
	for i, a := range r.Actions {
		at := fmt.Sprintf("%s[%d]", path, i)
		j, twice := first[a.Name]
		switch {
		case twice:
			c.found = append(c.found, finding{path: at + ".name", message: fmt.Sprintf("%s is %s[%d] too", quote(a.Name), path, j), other: fmt.Sprintf("%s[%d].name", path, j)})
		case slices.Contains(packaged, a.Name):
			c.add(at+".name", fmt.Sprintf("%s is the name of something else in the package", quote(a.Name)), "")
		}
		if !twice {
			first[a.Name] = i
		}
		switch {
		case a.File != "" && a.Inline != "":
			c.add(at+".inline", "is set beside file: an action is one or the other", "")
		case a.File == "" && a.Inline == "":
			c.add(at, "is no program: name its file, or give it inline", "")
		}
	}
}
