package parity

import (
	"context"
	"fmt"
	"net/http"
	"strings"
)

// endKept tells that a connection can still be used.
const endKept = "then usable"

// raw is a case of bytes as they are, with {host} for the agent's name. It reads one answer to each of the methods, and then looks whether
// the connection can be used for one more request.
func raw(group, name, text string, methods ...string) Case {
	return Case{Group: group, Name: name, Do: func(ctx context.Context, t *Target) Observation {
		for n := 1; ; n++ {
			o := rawOnce(ctx, t, text, methods)
			if len(o.Answers) > 0 || len(text) < largeBody || n == attempts || ctx.Err() != nil {
				return o
			}
		}
	}}
}

func rawOnce(ctx context.Context, t *Target, text string, methods []string) Observation {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	s, err := t.stream(ctx)
	if err != nil {
		return Observation{End: ending(err)}
	}
	defer s.conn.Close()
	s.send([]byte(strings.ReplaceAll(text, "{host}", t.ServerName)))
	return s.conversation(methods)
}

// conversation reads an answer to each method and tells whether the connection is then usable.
func (s *stream) conversation(methods []string) Observation {
	var o Observation
	for _, m := range methods {
		a, _, err := s.answer(m, "abc")
		if err != nil {
			o.End = ending(err)
			return o
		}
		o.Answers = append(o.Answers, a)
	}
	s.send(request{method: http.MethodGet, path: "/version"}.bytes(s.t.ServerName))
	a, _, err := s.answer(http.MethodGet, "")
	switch {
	case err != nil:
		o.End = ending(err)
	case a.Status == http.StatusOK:
		o.End = endKept
	default:
		o.End = fmt.Sprintf("then answers %d to a good request", a.Status)
	}
	return o
}

// httpCases are about the form of HTTP itself (RFC 9112).
func httpCases() []Case {
	const host = "Host: {host}\r\n"
	get := func(name, text string) Case { return raw("HTTP", name, text, http.MethodGet) }
	post := func(name, text string) Case { return raw("HTTP", name, text, http.MethodPost) }
	return []Case{
		get("good", "GET /version HTTP/1.1\r\n"+host+"\r\n"),
		get("HTTP/1.0", "GET /version HTTP/1.0\r\n\r\n"),
		get("HTTP/1.0, keep-alive", "GET /version HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
		get("Connection: close", "GET /version HTTP/1.1\r\n"+host+"Connection: close\r\n\r\n"),
		get("HTTP/0.9", "GET /version\r\n"), get("HTTP/1.2", "GET /version HTTP/1.2\r\n"+host+"\r\n"), get("HTTP/2.0", "GET /version HTTP/2.0\r\n"+host+"\r\n"),
		get("HTTP/3.1", "GET /version HTTP/3.1\r\n"+host+"\r\n"), get("preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
		get("no host", "GET /version HTTP/1.1\r\n\r\n"), get("two hosts", "GET /version HTTP/1.1\r\n"+host+host+"\r\n"), get("another host",
			"GET /version HTTP/1.1\r\nHost: other.test\r\n\r\n"),
		get("empty host", "GET /version HTTP/1.1\r\nHost:\r\n\r\n"), get("bad host", "GET /version HTTP/1.1\r\nHost: a b/c\r\n\r\n"),
		get("absolute URI", "GET https://{host}/version HTTP/1.1\r\n"+host+"\r\n"), get("URI without a slash", "GET version HTTP/1.1\r\n"+host+"\r\n"),
		get("URI with a space", "GET /ver sion HTTP/1.1\r\n"+host+"\r\n"), get("URI with a raw byte", "GET /version\xff HTTP/1.1\r\n"+host+"\r\n"),
		get("URI with a control character", "GET /ver\x01sion HTTP/1.1\r\n"+host+"\r\n"), get("URI with a fragment", "GET /version#x HTTP/1.1\r\n"+host+"\r\n"),
		get("newlines without returns", "GET /version HTTP/1.1\nHost: {host}\n\n"), get("empty lines first", "\r\n\r\nGET /version HTTP/1.1\r\n"+host+"\r\n"),
		get("two spaces", "GET  /version HTTP/1.1\r\n"+host+"\r\n"), get("space before a colon", "GET /version HTTP/1.1\r\nHost : {host}\r\n\r\n"),
		get("folded field", "GET /version HTTP/1.1\r\n"+host+"X: a\r\n b\r\n\r\n"), get("field without a colon",
			"GET /version HTTP/1.1\r\n"+host+"nonsense\r\n\r\n"),
		get("field without a name", "GET /version HTTP/1.1\r\n"+host+": x\r\n\r\n"), get("field with NUL", "GET /version HTTP/1.1\r\n"+host+"X: a\x00b\r\n\r\n"),
		get("field with a raw byte", "GET /version HTTP/1.1\r\n"+host+"X: \xff\r\n\r\n"), get("nonsense", "nonsense\r\n\r\n"), get("binary",
			"\x00\x01\x02\x03\r\n\r\n"),
		get("Upgrade: h2c", "GET /version HTTP/1.1\r\n"+host+"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"),
		get("Upgrade: websocket",
			"GET /version HTTP/1.1\r\n"+host+"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
				"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"),
		get("Accept: text/html", "GET /version HTTP/1.1\r\n"+host+"Accept: text/html\r\n\r\n"), get("Accept-Encoding: gzip",
			"GET /version HTTP/1.1\r\n"+host+"Accept-Encoding: gzip\r\n\r\n"),
		get("a range", "GET /version HTTP/1.1\r\n"+host+"Range: bytes=0-3\r\n\r\n"), get("If-None-Match: *",
			"GET /version HTTP/1.1\r\n"+host+"If-None-Match: *\r\n\r\n"),
		post("Expect: 100-continue", "POST "+vkeyPath+" HTTP/1.1\r\n"+host+jsonType+"\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"),
		post("another expectation", "POST "+vkeyPath+" HTTP/1.1\r\n"+host+jsonType+"\r\nExpect: a-miracle\r\nContent-Length: 2\r\n\r\n{}"),
		post("negative length", "POST "+vkeyPath+" HTTP/1.1\r\n"+host+jsonType+"\r\nContent-Length: -2\r\n\r\n{}"),
		post("length with a plus", "POST "+vkeyPath+" HTTP/1.1\r\n"+host+jsonType+"\r\nContent-Length: +2\r\n\r\n{}"),
		post("length that is no number", "POST "+vkeyPath+" HTTP/1.1\r\n"+host+jsonType+"\r\nContent-Length: two\r\n\r\n{}"),
		post("length above 2⁶⁴", "POST "+vkeyPath+" HTTP/1.1\r\n"+host+jsonType+"\r\nContent-Length: 99999999999999999999\r\n\r\n{}"),
		post("two lengths", "POST "+vkeyPath+" HTTP/1.1\r\n"+host+jsonType+"\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"),
		post("the same length twice", "POST "+vkeyPath+" HTTP/1.1\r\n"+host+jsonType+"\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}"),
		post("length and chunks", "POST "+vkeyPath+" HTTP/1.1\r\n"+host+jsonType+"\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
		post("unknown transfer encoding", "POST "+vkeyPath+" HTTP/1.1\r\n"+host+jsonType+"\r\nTransfer-Encoding: rot13\r\n\r\n{}"),
		post("bad chunk size", "POST "+vkeyPath+" HTTP/1.1\r\n"+host+jsonType+"\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"),
		post("chunk extension", "POST "+vkeyPath+" HTTP/1.1\r\n"+host+jsonType+"\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n"),
		post("trailer", "POST "+vkeyPath+" HTTP/1.1\r\n"+host+jsonType+"\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n\r\n"),
		post("chunks in HTTP/1.0", "POST "+vkeyPath+" HTTP/1.0\r\n"+jsonType+"\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
	}
}

// sizeCases are about what is very large.
func sizeCases() []Case {
	var cases []Case
	fields := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "X-%d: y\r\n", i)
		}
		return b.String()
	}
	for _, n := range []int{50, 90, 95, 96, 100, 500, 5000} {
		cases = append(cases, raw("sizes", fmt.Sprintf("%d fields", n), "GET /version HTTP/1.1\r\nHost: {host}\r\n"+fields(n)+"\r\n", http.MethodGet))
	}
	for _, n := range []int{1, 8, 15, 24, 60, 120, 140, 300} {
		long := strings.Repeat("a", n<<10)
		cases = append(cases,
			raw("sizes", fmt.Sprintf("a field of %d KiB", n), "GET /version HTTP/1.1\r\nHost: {host}\r\nX: "+long+"\r\n\r\n", http.MethodGet),
			raw("sizes", fmt.Sprintf("a query of %d KiB", n), "GET /version?"+long+" HTTP/1.1\r\nHost: {host}\r\n\r\n", http.MethodGet),
			raw("sizes", fmt.Sprintf("a path of %d KiB", n), "GET /"+long+" HTTP/1.1\r\nHost: {host}\r\n\r\n", http.MethodGet))
	}
	return append(cases, raw("sizes", "a method of 20 KiB", strings.Repeat("A", 20<<10)+" / HTTP/1.1\r\nHost: {host}\r\n\r\n", "A"),
		raw("sizes", "no end of a line of 1 MiB", strings.Repeat("A", 1<<20), http.MethodGet))
}

// connectionCases are about several requests on one connection, and connections that are cut.
func connectionCases() []Case {
	const group = "connections"
	good := "GET /version HTTP/1.1\r\nHost: {host}\r\n\r\n"
	quote := "GET /v2.6/quotes/identity?nonce=abc HTTP/1.1\r\nHost: {host}\r\n\r\n"
	bad := "GET /v2.6/quotes/identity?nonce=a.b HTTP/1.1\r\nHost: {host}\r\n\r\n"
	body := "POST " + vkeyPath + " HTTP/1.1\r\nHost: {host}\r\n" + jsonType + "\r\nContent-Length: 2\r\n\r\n{}"
	methods := func(n int) []string { return strings.Split(strings.Repeat("GET ", n-1)+"GET", " ") }
	large := "POST " + vkeyPath + " HTTP/1.1\r\nHost: {host}\r\n" + jsonType + fmt.Sprintf("\r\nContent-Length: %d\r\n\r\n", 8<<20) + strings.Repeat(" ", 8<<20)
	return []Case{
		{Group: group, Name: "three requests, one after the other", Do: oneByOne(good, quote, good)},
		{Group: group, Name: "good requests after bad ones", Do: oneByOne(bad, good, strings.ReplaceAll(good, "/version", "/nowhere"), good)},
		raw(group, "three requests at once", good+quote+good, methods(3)...),
		raw(group, "twenty requests at once", strings.Repeat(good, 20), methods(20)...),
		raw(group, "a bad one among three at once", good+bad+good, methods(3)...),
		raw(group, "requests with and without a body at once", good+body+good, "GET", "POST", "GET"),
		raw(group, "the last of two at once closes", good+strings.Replace(good, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1), methods(2)...),
		raw(group, "nonsense after a good one", good+"nonsense\r\n\r\n", methods(2)...),
		raw(group, "HEAD and then GET at once", strings.Replace(good, "GET", "HEAD", 1)+good, "HEAD", "GET"),
		raw(group, "after a refused method with a body", strings.Replace(body, vkeyPath, "/version", 1), "POST"),
		raw(group, "after a refused body", strings.Replace(body, "{}", "{{", 1), "POST"),
		raw(group, "after an oversize body", large, "POST"),
		raw(group, "after an oversize body where none is wanted", strings.Replace(large, vkeyPath, "/nowhere", 1), "POST"),
		cutCase("nothing sent", ""), cutCase("cut in the request line", "GET /ver"), cutCase("cut in the fields", "GET /version HTTP/1.1\r\nHost: a"),
		cutCase("cut in the body", "POST "+vkeyPath+" HTTP/1.1\r\nHost: {host}\r\n"+jsonType+"\r\nContent-Length: 1000\r\n\r\n{"),
		cutCase("cut in a chunk", "POST "+vkeyPath+" HTTP/1.1\r\nHost: {host}\r\n"+jsonType+"\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{"),
		cutCase("cut before the answer", quote),
	}
}

// oneByOne sends each request when the one before has been answered.
func oneByOne(requests ...string) func(context.Context, *Target) Observation {
	return func(ctx context.Context, t *Target) Observation {
		ctx, cancel := context.WithTimeout(ctx, t.Timeout)
		defer cancel()
		s, err := t.stream(ctx)
		if err != nil {
			return Observation{End: ending(err)}
		}
		defer s.conn.Close()
		var o Observation
		for _, r := range requests {
			s.send([]byte(strings.ReplaceAll(r, "{host}", t.ServerName)))
			a, _, err := s.answer(http.MethodGet, "abc")
			if err != nil {
				o.End = ending(err)
				return o
			}
			o.Answers = append(o.Answers, a)
		}
		return o
	}
}

// cutCase hangs up after text, eight times, and then asks as usual.
func cutCase(name, text string) Case {
	return Case{Group: "connections", Name: name + ", eight times, then a good one", Do: func(ctx context.Context, t *Target) Observation {
		within, cancel := context.WithTimeout(ctx, t.Timeout)
		defer cancel()
		for range 8 {
			conn, err := t.open(within, nil)
			if err != nil {
				return Observation{End: ending(err)}
			}
			_, err = conn.Write([]byte(strings.ReplaceAll(text, "{host}", t.ServerName)))
			conn.NetConn().Close() // without a farewell of TLS
			if err != nil {
				return Observation{End: ending(err)}
			}
		}
		o, _ := t.exchange(ctx, request{method: http.MethodGet, path: "/v2.6/quotes/identity?nonce=abc"})
		return o
	}}
}
