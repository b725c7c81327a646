// Package control is how the keylab command speaks with a running lab: HTTP and JSON over a Unix socket in the
// abstract namespace (unix(7)), named after the lab's folder.
//
// The abstract socket is also the lab's lock and its pulse. Binding it is atomic, so of two labs with one folder only
// one can start; it exists exactly as long as a process holds it, so there is no stale file; and the kernel says who
// is at the other end (SO_PEERCRED), so that neither side speaks with another user.
package control
