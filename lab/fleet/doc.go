// Package fleet is what every substrate does in the same way for a lab's services and nodes: its EK CAs and what they issue,
// identities, the services' configuration, enrolment, waiting for the first attestation, and the state of a node.
package fleet
