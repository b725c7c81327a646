// Package push is a Keylime push-model agent as a library: it registers one TPM
// with a Keylime registrar and then, unasked, sends evidence to a verifier that
// runs with mode = push. Hundreds of agents fit in one process.
//
// The reference for its behaviour is the Rust push agent (rust-keylime 0.2.9) with
// API version 3.0 of the Keylime services 7.14: the same requests with the same
// fields. TPM, identity, EK and AK are those of package agent.
//
//	a, err := push.New(ctx, push.Config{
//		OpenTPM:    openTPM,              // one client of the node's TPM
//		StateDir:   "/var/lib/keylime",   // the AK survives a restart
//		Registrar:  "198.18.10.11:8890",
//		Verifier:   "198.18.10.12:8881",
//		VerifierCA: pool,                 // Keylime's cv_ca
//	})
//	defer a.Close()
//	err = a.Register(ctx) // waits for the registrar, proves EK and AK
//	err = a.Run(ctx)      // attests until ctx ends
//
// # One attestation
//
// The agent holds a session with the verifier, which it gets by proof of
// possession: the verifier sends a challenge, the AK certifies itself over it
// (TPM2_Certify), the verifier answers with a bearer token. With the token the
// agent says what evidence it could send (POST attestations), the verifier answers
// with a location and what it wants, with a challenge to quote, and the agent sends
// that to the location (PATCH), in the order it was asked for.
//
// The answer to that, 202, says that the evidence is complete and in form. Only
// then does the verifier verify it, and the protocol has no way to tell the agent
// the outcome: ask the verifier as an administrator.
//
// # What goes wrong
//
// [Agent.Run] gives up on nothing: a verifier that is away, restarts, does not know
// the agent yet or refuses evidence is asked again, after pauses that grow up to
// Config.RetryMaxDelay. A verifier that names a time (Retry-After,
// seconds_to_next_attestation) is given it. Each attempt is reported to
// Config.OnAttestation with its error.
//
// # Differences from the Rust agent
//
// Logs that the agent does not have are not offered; the Rust agent offers them
// with no entries. A quote covers what the verifier asked for; the Rust agent's
// also covers PCR 16, which it extends with its AK. What a verifier asks for that
// was not offered is an error here; the Rust agent leaves it out, and the verifier
// then refuses the rest.
package push
