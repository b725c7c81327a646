// Package netroles is what runs as the main process of the containers that are a lab's network: the router, the DNS servers, and those that only
// hold a place in it. Each serves a small control API, HTTP on a unix socket in its own container; the clients here take a dial function
// that leads there.
package netroles
