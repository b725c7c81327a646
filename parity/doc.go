// Package parity shows that keylab's own agent behaves as a real one does. It brings up labs with agents of both kinds, one for each model and one whose
// verifier tells agents of those that failed, sends both the same requests on the same way (from the tenant's host, by router and ingress, with a client certificate of Keylime's CA), does the same
// to both machines, and compares what comes back and what the real verifier makes of it.
//
//	result, err := parity.Run(ctx, parity.Options{Agent: "/usr/local/bin/keylime_agent", Version: "0.2.9"})
//	err = result.Markdown(os.Stdout)
//
// # What is compared
//
// Of an answer: the HTTP status, the content type, the Allow field, and the shape of the JSON body: its keys and the types of their values,
// and the values of the few that a client goes by (code, hash_alg, enc_alg, sign_alg, the versions). A quote is checked as a verifier would,
// and is then "a good quote" of certain PCRs. Of a connection without an answer: how it ended, such as by which TLS alert. Of the verifier:
// operational_state, attestation_status, last_event_id and severity_level.
//
// Not compared are texts for people, times, and numbers of random origin.
//
// # Differences
//
// A [Case] may say why the agents differ there. A difference without such a reason fails the run, as does a reason without a difference,
// which has had its day.
//
// # Without the other agent
//
// What a real agent answered can be recorded ([Result.Record]); the tests of this package hold keylab's own agent to the record in
// testdata, so that it cannot drift away between two runs.
package parity
