// Package podnet is the network of the pods in clusters whose node image brings none: on each node the standard CNI plugins ptp, host-local and portmap,
// configured from the node's own pod range; a route to each other node's range; and masquerading of what pods send out of the cluster, so that it leaves as
// its node. Connections between pods keep their addresses.
package podnet
