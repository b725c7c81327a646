package plan

import "keylab.dev/keylab/lab/spec"

// Payload is what Keylime delivers to one node. The plan says where it comes from, never what is in it.
type Payload struct {
	Name    string `json:"name" yaml:"name"`     // of its copy in the lab's folder
	Source  string `json:"source" yaml:"source"` // the file that it is read from, or PayloadInline
	Autorun bool   `json:"autorun,omitempty" yaml:"autorun,omitempty"`
}

const (
	// PayloadInline is the Source of a payload that stands in the specification itself.
	PayloadInline = "inline"
	// SharedPayload is the Name of the lab's payload; a node's own one begins otherwise.
	SharedPayload = "all"
	// PayloadScript is what an agent runs when Autorun is set, at the top of the archive (rust-keylime 0.2.9, keylime-agent.conf: payload_script).
	PayloadScript = "autorun.sh"
)

// planPayload is nil for a node that gets nothing. Nodes that get the lab's payload share one copy.
func planPayload(n spec.EffectiveNode) *Payload {
	if !n.Payload.Exists() {
		return nil
	}
	p := &Payload{Name: "node-" + n.Name, Source: n.Payload.File, Autorun: n.Payload.Autorun}
	if n.SharedPayload {
		p.Name = SharedPayload
	}
	if p.Source == "" {
		p.Source = PayloadInline
	}
	return p
}

// HasPayload tells whether any node gets a payload.
func (p Plan) HasPayload() bool {
	for _, n := range p.Nodes {
		if n.Payload != nil {
			return true
		}
	}
	return false
}
