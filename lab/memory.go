package lab

import (
	"keylab.dev/keylab/lab/kind"
	"keylab.dev/keylab/lab/netns"
	"keylab.dev/keylab/lab/spec"
)

// Memory is about what a lab of so many nodes takes on a substrate (empty: the default), in MiB: measured with `make bench`, rounded up.
func Memory(substrate spec.Substrate, nodes int) int {
	if substrate == spec.SubstrateKind {
		return kind.Memory(nodes)
	}
	return netns.Memory(nodes)
}
