// Package kind carries a lab's plan out with Docker and kind (Kubernetes in Docker): the networks are Docker networks with a router
// container between them, the services are containers, the nodes are workers of a kind cluster, and the agents are pods of a DaemonSet.
//
// There is no process that a lab needs on the host. Whoever wants something of a lab opens it again from its folder and finds what it
// is made of by labels: every container, network and volume has the label keylab.lab=<lab>, and the cluster's nodes have kind's own.
package kind
