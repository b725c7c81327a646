package spec

import (
	"fmt"
	"strings"
	"time"
)

// push checks what Keylime's push model lacks, as version 7.14 has it.
func (c *checker) push() {
	k := c.spec.Keylime
	if k.Mode != ModePush {
		return
	}
	if !strings.HasPrefix(k.Version, "7.14.") {
		c.add("keylime.mode", fmt.Sprintf("\"push\" came with Keylime 7.14; keylime.version is %s", k.Version), "")
	}
	if d := time.Duration(k.QuoteInterval); d%time.Second != 0 {
		c.add("keylime.quoteInterval", fmt.Sprintf("%s: the push model needs whole seconds", d), "")
	}
	c.eachAgent(func(path string, a Agent) {
		if h := a.HashAlgorithm; h != "" && h != HashSHA256 {
			c.add(path+".hashAlgorithm", fmt.Sprintf("%q: in the push model Keylime refuses the agent's proof of possession: \"ak_attest must specify sha256 as the hash algorithm\"", h),
				string(HashSHA256))
		}
	})
	why := "in the push model Keylime accepts no other proof of possession than one by RSASSA"
	if a := c.spec.Agent.AKAlgorithm; a != "" && a != AKRSASSA {
		c.add("agent.akAlgorithm", fmt.Sprintf("%q: %s", a, why), string(AKRSASSA))
	}
	for i, n := range c.spec.Nodes.List {
		if a := n.Agent.AKAlgorithm; a != "" && a != AKRSASSA {
			c.add(fmt.Sprintf("nodes[%d].agent.akAlgorithm", i), fmt.Sprintf("%q: %s", a, why), string(AKRSASSA))
		}
	}
}
