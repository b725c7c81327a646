// Package sandbox gives a lab its own corner of the kernel: PID, mount, network and UTS namespaces (and, for a
// normal user, a user namespace in which that user is root), held by one process tree.
//
// The tree has two processes of ours. Start makes the first, "init", which is process 1 of the new PID namespace: it
// mounts a private /proc and an empty /run, starts the second, the supervisor, and from then on only reaps. When
// either ends, however it ends, process 1 is gone, and the kernel kills all that is left in the namespace and frees
// the namespaces, links, mounts, rules and sockets with it (pid_namespaces(7)). Nothing needs to be cleaned up, so
// nothing can be left behind.
//
// Both are this very program started again with a first argument that no user types; Main answers those calls, and a
// program that uses the package calls it first thing.
package sandbox
