package netns

// What a lab was measured to need, in MiB: services, and each node with its agent and TPM.
const (
	memoryBase = 350
	memoryNode = 25
)

// Memory is about what a lab of so many nodes takes, in MiB.
func Memory(nodes int) int { return memoryBase + nodes*memoryNode }
