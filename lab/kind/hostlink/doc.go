// Package hostlink lets keylab on the machine act in the network of a container: it dials, listens, probes and looks around there, through a session
// over the standard input and output of `keylab in-container link`, which Docker or Kubernetes runs in the container. So no port is
// opened anywhere and no privilege on the machine is needed beyond that of running a command in a container.
//
// A session is yamux over one byte stream. The client opens a stream for each operation: a request and its answer, each as JSON with its
// length before it in four bytes (big-endian); after the answer to a dial the stream is the connection, or has a connection's packets, each
// with its length before it. A stream that the client closes ends its operation.
package hostlink
