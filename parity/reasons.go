package parity

// reasons say why the agents differ in cases, by [Case.ID]. None of these is anything that Keylime's services do, or could go by.
var reasons = []struct {
	why   string
	cases []string
}{
	{"Malformed HTTP, which no library sends. Both refuse it and close; Go's net/http says why in a line of text, actix-web sends no body", []string{
		"HTTP: HTTP/0.9", "HTTP: URI with a space", "HTTP: URI with a control character", "HTTP: two spaces", "HTTP: space before a colon",
		"HTTP: field without a colon",
		"HTTP: field without a name", "HTTP: field with NUL", "HTTP: nonsense", "HTTP: binary", "HTTP: negative length", "HTTP: length with a plus",
		"HTTP: length that is no number", "HTTP: length above 2⁶⁴", "HTTP: two lengths", "connections: nonsense after a good one"}},
	{"A header of more than 128 KiB: both refuse it with the same status; Go's net/http repeats that in a line of text", []string{
		"sizes: a field of 140 KiB", "sizes: a query of 140 KiB", "sizes: a path of 140 KiB", "sizes: a field of 300 KiB", "sizes: a query of 300 KiB",
		"sizes: a path of 300 KiB",
		"sizes: no end of a line of 1 MiB"}},
	{"RFC 9112, section 3.2, demands a 400 for these: the Rust agent does not look at the host", []string{"HTTP: no host", "HTTP: two hosts", "HTTP: bad host"}},
	{"RFC 9110, section 2.5: a newer minor version is to be answered as the newest one that is known; actix-web knows 1.0 and 1.1 alone",
		[]string{"HTTP: HTTP/1.2"}},
	{"505 is made for this (RFC 9110, section 15.6.6); actix-web has a 400 for all that it does not understand", []string{"HTTP: HTTP/2.0", "HTTP: HTTP/3.1"}},
	{"The first bytes of HTTP/2 where HTTP/1.1 was agreed on: both refuse and close; to net/http it is a request with the method PRI",
		[]string{"HTTP: preface of HTTP/2"}},
	{"No HTTP client sends this target (RFC 9112, section 3.2; a fragment stays with the client). Parsers of targets differ in what they make of it", []string{
		"HTTP: URI without a slash", "HTTP: URI with a raw byte", "HTTP: URI with a fragment", "identity quote: nonce with a hash"}},
	{"RFC 9112, section 2.2, asks servers to pass over an empty line before a request; Go's net/http does not, and no client of today sends one",
		[]string{"HTTP: empty lines first"}},
	{"RFC 9112, section 5.2, leaves it to the server to refuse a folded field or to unfold it", []string{"HTTP: folded field"}},
	{"RFC 9112, sections 6.1 and 6.3, leave it to the server to refuse this or to go by the chunks, or by the one value", []string{
		"HTTP: the same length twice", "HTTP: length and chunks", "HTTP: chunks in HTTP/1.0"}},
	{"501 is what RFC 9112, section 6.1, asks for; actix-web has a 400 for all that it does not understand", []string{"HTTP: unknown transfer encoding"}},
	{"417 is made for this (RFC 9110, section 10.1.1), and comes from Go's net/http; actix-web passes over expectations that it does not know",
		[]string{"HTTP: another expectation"}},
	{"The answer is the same; actix-web then closes the connection, and a client opens another", []string{
		"HTTP: Upgrade: websocket", "HTTP: trailer", "connections: after a refused method with a body"}},
	{"Whoever is too slow is cut off by both; the Rust agent, after 5 s, with a 408 for a request that was not made, which Go's net/http has not; " +
		"keylab's own after 30 s, since hundreds of agents may share one busy machine", []string{
		"slow clients: says nothing", "slow clients: stops in the request line", "slow clients: stops in the fields",
		"slow clients: a byte of the fields every second"}},
	{"The Rust agent sets no deadline for a body, and was still waiting after 60 s; keylab's own gives up after 30 s", []string{
		"slow clients: stops before the body", "slow clients: stops in the body", "slow clients: stops in a chunk",
		"slow clients: a byte of the body every second"}},
	{"Both refuse the certificate; crypto/tls and OpenSSL choose other alerts for it (RFC 8446, section 6.2, leaves the choice)", []string{
		"TLS: TLS 1.2, a certificate of the future", "TLS: TLS 1.3, a certificate of the future", "TLS: TLS 1.2, a certificate for servers",
		"TLS: TLS 1.3, a certificate for servers"}},
	{"RFC 7301, section 3.2: a server that knows none of the protocols offered ends the handshake, as Go's crypto/tls does; OpenSSL goes on without",
		[]string{"TLS: ALPN nonsense"}},
	{"A defect of the Rust agent: it hands out tickets, but sets no session id context, without which OpenSSL ends every " +
		"resumption with an error. keylab's own agent hands out none, and makes a full handshake. Keylime's clients resume no sessions", []string{
		"TLS: TLS 1.2, resumption", "TLS: TLS 1.3, resumption"}},
	{"Neither speaks without TLS; Go's net/http says so in plain text before it closes", []string{"at the agent's socket: plain HTTP"}},
}

// reasonFor is why the agents differ in a case, or "".
func reasonFor(id string) string {
	for _, r := range reasons {
		for _, c := range r.cases {
			if c == id {
				return r.why
			}
		}
	}
	return ""
}
