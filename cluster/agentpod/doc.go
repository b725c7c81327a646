// Package agentpod runs keylab's own Keylime agent as the main process of a pod. It takes the configuration of the Rust agent, file and environment,
// so that one manifest fits both, and a lab on namespaces can start it as a program.
package agentpod
