package spec

import (
	"fmt"
)

// MaxPayload is the largest payload, in bytes. Encrypted and in base64 it must fit into Keylime's max_payload_size of 1 MiB (tenant.conf), and unpacked
// beside the archive into the agent's secure_size of 1 MiB (rust-keylime, keylime-agent.conf).
const MaxPayload = 480 << 10

// Payload is what Keylime's tenant encrypts for an agent, which can decrypt it once the verifier has had a first good quote and has handed out its half of
// the key. With no field set there is none.
type Payload struct {
	// The payload's file: an absolute path, or one relative to this file. At most 480 KiB.
	File string `yaml:"file,omitempty" jsonschema:"maxLength=4096"`
	// The payload itself, as text, in place of a file.
	Inline string `yaml:"inline,omitempty" jsonschema:"content,maxLength=65536"`
	// The payload is a zip archive: the agent unpacks it and runs the script autorun.sh in it, as the Rust agent does by default.
	Autorun bool `yaml:"autorun,omitempty"`
}

// NodePayload is what one node gets in place of the lab's [Payload]; with no field set it gets the lab's.
type NodePayload struct {
	// The payload's file: an absolute path, or one relative to this file. At most 480 KiB.
	File string `yaml:"file,omitempty" jsonschema:"maxLength=4096"`
	// The payload itself, as text, in place of a file.
	Inline string `yaml:"inline,omitempty" jsonschema:"content,maxLength=65536"`
	// The payload is a zip archive: the agent unpacks it and runs the script autorun.sh in it, as the Rust agent does by default.
	Autorun bool `yaml:"autorun,omitempty"`
	// This node gets no payload.
	None bool `yaml:"none,omitempty"`
}

// Exists tells whether there is a payload.
func (p Payload) Exists() bool { return p != Payload{} }

// over is what a node gets, and whether it is the lab's.
func (n NodePayload) over(lab Payload) (Payload, bool) {
	if n == (NodePayload{}) {
		return lab, lab.Exists()
	}
	return n.payload(), false // which is empty where None is set
}

func (n NodePayload) payload() Payload { return Payload{n.File, n.Inline, n.Autorun} }

// payloads finds payloads that are two at once or half of one. No message repeats what is in one.
func (c *checker) payloads() {
	c.payload("payload", c.spec.Payload)
	for i, n := range c.spec.Nodes.List {
		path := fmt.Sprintf("nodes[%d].payload", i)
		if n.Payload.None && n.Payload.payload().Exists() {
			c.add(path+".none", "is true, but the node is given a payload as well", "")
			continue
		}
		c.payload(path, n.Payload.payload())
	}
}

func (c *checker) payload(path string, p Payload) {
	switch {
	case !p.Exists():
		return
	case p.File != "" && p.Inline != "":
		c.add(path+".inline", "is set beside file: a payload is one or the other", "")
	case p.File == "" && p.Inline == "":
		c.add(path+".autorun", "is set, but there is no payload: name its file", "")
	case p.Autorun && p.File == "":
		c.add(path+".autorun", "needs a zip archive, named by file; inline text is none", "")
	}
	if c.spec.Keylime.Mode == "push" {
		c.add(path, "is for the mode pull only, in which tenant and verifier talk to the agents; keylime.mode is push", "")
	}
}
