package spec

import (
	"fmt"
	"slices"
)

// algorithms finds AKs that the lab's Keylime cannot check. What is refused, and in which words, was seen in runs of every combination (docs/keylime.md).
func (c *checker) algorithms() {
	version := c.spec.Keylime.Version
	refused := map[AKAlgorithm]string{
		AKRSAPSS: `Keylime, as of 7.14.3, cannot check it: "Unsupported quote signature algorithm '0x16' for RSA keys"`,
	}
	if version == "7.12.2" {
		refused[AKECDSA] = `Keylime 7.12.2 cannot check it: "Error verifying quote"; it takes one half of the signature for all of it. 7.13.1 can`
	}
	c.eachAgent(func(path string, a Agent) {
		why, bad := refused[a.AKAlgorithm]
		if bad && !(c.spec.Keylime.Mode == ModePush) { // which has a rule of its own
			c.add(path+".akAlgorithm", fmt.Sprintf("%s: %s", quote(string(a.AKAlgorithm)), why), string(AKRSASSA))
		}
	})
}

// eachAgent calls f for what the lab says of its agents, if any node goes by that, and for what nodes say of their own.
func (c *checker) eachAgent(f func(path string, a Agent)) {
	if c.spec.Nodes.List == nil || slices.ContainsFunc(c.spec.Nodes.List, func(n Node) bool { return n.Agent.AKAlgorithm == "" }) {
		f("agent", c.spec.Agent)
	}
	for i, n := range c.spec.Nodes.List {
		f(fmt.Sprintf("nodes[%d].agent", i), Agent(n.Agent))
	}
}
