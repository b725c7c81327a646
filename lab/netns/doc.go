// Package netns carries a lab's plan out on Linux namespaces, without Docker and, for a normal user, without root.
//
// Start is called by `keylab up`: it starts the supervisor in a sandbox (package sandbox). Supervise is what runs there: it
// builds the network, starts DNS, ingress, TPMs, Keylime's services and the agents, and then serves the control socket
// until `keylab down`. Go agents, DNS and ingress are goroutines of the supervisor, on sockets that were opened in the
// right network namespace; Keylime, swtpm and binary agents are its child processes.
package netns
