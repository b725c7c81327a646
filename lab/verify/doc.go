// Package verify proves that a running lab is what it claims to be. It knows no substrate: it asks a Target for probes
// and counters, and the real Keylime services for what they hold.
//
// The proofs, each a number of named checks with their evidence:
//
//	1 registration  every agent is registered under its own UUID with its own hostname
//	2 ek            each EK certificate is the CA's for that node's TPM, and the tenant enforced it
//	3 separation    only the allowed flows cross the router, and there is no way around it
//	4 routing       a hostname leads to the agent with that UUID, and to no other
//	5 liveness      the verifier keeps attesting every agent
//	6 payload       where there is one: it arrived where it was meant to, and nowhere else
//
// A check that could not run has failed.
package verify
