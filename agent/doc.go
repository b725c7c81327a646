// Package agent is a Keylime pull-mode agent as a library: it registers one TPM
// with a Keylime registrar and answers the verifier's and the tenant's requests
// for quotes, keys and payloads. Hundreds of agents fit in one process.
//
// The reference for its behaviour is the Rust agent (rust-keylime): the same
// endpoints, API versions 2.1 to 2.6, JSON bodies and status codes. The agent
// knows nothing about labs, containers or namespaces: it is given a TPM, a
// listening socket and a way to dial.
//
//	a, err := agent.New(ctx, agent.Config{
//		OpenTPM:        openTPM,                  // one client of the node's TPM
//		StateDir:       "/var/lib/keylime",       // AK and keys survive a restart
//		ContactAddress: "agent7.agents.lab.test", // where the verifier finds it
//		ContactPort:    443,
//		Registrar:      "198.18.10.11:8890",
//		ClientCAs:      pool,                     // Keylime's cv_ca
//		Listener:       listener,
//	})
//	defer a.Close()
//	err = a.Register(ctx) // waits for the registrar, proves EK and AK
//	err = a.Serve(ctx)    // until ctx ends
//
// # Keys
//
// An agent holds four keys. The EK identifies the TPM and is certified by the
// EK CA. The AK signs quotes; it is a restricted key below the EK and is kept in
// StateDir, because a registrar refuses a second AK for a known agent. The
// payload key (RSA-2048, "NK" in Keylime) receives the two halves of the payload
// encryption key; its public half is bound to every quote through PCR 16. The
// server key (ECDSA P-256) belongs to the certificate that the agent registers.
//
// # Quotes
//
// [ParseQuote] and [Quote.Verify] take apart and check the quote text an agent
// answers with, so that a caller can judge quotes without Keylime.
//
// # Errors
//
// [Agent.Register] tries again while the registrar is merely unreachable or busy
// and stops at once with an error matching [ErrRegistrarRefused] when it says no.
package agent
