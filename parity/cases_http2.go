package parity

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"golang.org/x/sync/errgroup"
)

// http2Client asks over one connection that has agreed on HTTP/2 (RFC 9113).
func (t *Target) http2Client(conn *tls.Conn) *http.Client {
	first := true
	return &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true,
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			if !first {
				return nil, errors.New("the connection is used up")
			}
			first = false
			return conn, nil
		},
	}}
}

// http2Answer makes one request by such a client.
func (t *Target) http2Answer(ctx context.Context, client *http.Client, r request) (Answer, error) {
	h, err := http.NewRequestWithContext(ctx, r.method, "https://"+t.ServerName+r.path, bytes.NewReader(r.body))
	if err != nil {
		return Answer{}, err
	}
	for _, f := range r.fields {
		name, value, _ := strings.Cut(f, ": ")
		h.Header.Add(name, value)
	}
	response, err := client.Do(h)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return Answer{}, err
	}
	return t.observed(response, body, nonceOf(r.path)), nil
}

// http2Cases are about clients that offer HTTP/2. Keylime's do not.
func http2Cases() []Case {
	over := func(name string, requests ...request) Case {
		return Case{Group: "HTTP/2", Name: name, Do: func(ctx context.Context, t *Target) Observation {
			ctx, cancel := context.WithTimeout(ctx, t.Timeout)
			defer cancel()
			c := t.tlsConfig(t.Client)
			c.NextProtos = []string{"h2"}
			conn, err := t.open(ctx, c)
			if err != nil {
				return Observation{End: ending(err)}
			}
			defer conn.Close()
			client := t.http2Client(conn)
			answers := make([]Answer, len(requests))
			// The first alone: it is what makes the connection one of HTTP/2.
			if answers[0], err = t.http2Answer(ctx, client, requests[0]); err != nil {
				return Observation{End: http2Ending(err)}
			}
			var group errgroup.Group
			for i, r := range requests[1:] {
				group.Go(func() (err error) {
					answers[i+1], err = t.http2Answer(ctx, client, r)
					return err
				})
			}
			if err := group.Wait(); err != nil {
				return Observation{Answers: answers[:1], End: http2Ending(err)}
			}
			return Observation{Answers: answers}
		}}
	}
	get := func(path string, fields ...string) request {
		return request{method: http.MethodGet, path: path, fields: fields}
	}
	var many []request
	for range 20 {
		many = append(many, get("/v2.6/quotes/identity?nonce=abc"))
	}
	var fields []string
	for i := range 200 {
		fields = append(fields, fmt.Sprintf("X-%d: y", i))
	}
	return []Case{
		over("version", get("/version")), over("identity quote", get("/v2.6/quotes/identity?nonce=abc")), over("unknown path", get("/nowhere")),
		over("wrong method", post("/version", "")), over("HEAD", request{method: http.MethodHead, path: "/version"}), over("bad nonce",
			get("/v2.6/quotes/identity?nonce=a.b")),
		over("body", post(vkeyPath, "{}")), over("body of 8 MiB, then a good request", post(vkeyPath, strings.Repeat(" ", 8<<20)), get("/version")),
		over("200 fields", get("/version", fields...)), over("a field of 60 KiB", get("/version", "X: "+strings.Repeat("a", 60<<10))),
		over("a query of 60 KiB", get("/version?"+strings.Repeat("a", 60<<10))), over("twenty requests at once", many...),
	}
}

// http2Ending is how a request over HTTP/2 failed.
func http2Ending(err error) string {
	if e := ending(err); !strings.HasPrefix(e, "error: ") {
		return e
	}
	for _, sign := range []string{"stream error", "GOAWAY", "response headers"} {
		if strings.Contains(err.Error(), sign) {
			return "HTTP/2 " + sign
		}
	}
	return ending(err)
}
