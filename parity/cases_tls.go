package parity

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// slowCases are about who is slow: the agent must not wait for ever.
func slowCases() []Case {
	const group = "slow clients"
	slow := func(name string, do func(ctx context.Context, t *Target, s *stream) Observation) Case {
		return Case{Group: group, Name: name, Slow: true, Do: func(ctx context.Context, t *Target) Observation {
			ctx, cancel := context.WithTimeout(ctx, t.Patience)
			defer cancel()
			s, err := t.stream(ctx)
			if err != nil {
				return Observation{End: ending(err)}
			}
			defer s.conn.Close()
			begin := time.Now()
			o := do(ctx, t, s)
			o.Note = fmt.Sprintf("after %.0f s", time.Since(begin).Seconds())
			return o
		}}
	}
	stalled := func(text string) func(context.Context, *Target, *stream) Observation {
		return func(_ context.Context, _ *Target, s *stream) Observation {
			s.send([]byte(text))
			return s.last()
		}
	}
	header := "POST " + vkeyPath + " HTTP/1.1\r\nHost: agent.test\r\n" + jsonType + "\r\n"
	return []Case{
		slow("says nothing", stalled("")),
		slow("stops in the request line", stalled("GET /ver")),
		slow("stops in the fields", stalled("GET /version HTTP/1.1\r\nHost: ")),
		slow("stops before the body", stalled(header+"Content-Length: 100\r\n\r\n")),
		slow("stops in the body", stalled(header+"Content-Length: 100\r\n\r\n{")),
		slow("stops in a chunk", stalled(header+"Transfer-Encoding: chunked\r\n\r\nff\r\n{")),
		slow("stops after an answer", func(_ context.Context, t *Target, s *stream) Observation {
			s.send(request{method: http.MethodGet, path: "/version"}.bytes(t.ServerName))
			a, _, err := s.answer(http.MethodGet, "")
			if err != nil {
				return Observation{End: ending(err)}
			}
			return Observation{Answers: []Answer{a}, End: s.ending()}
		}),
		slow("a byte of the fields every second", drip("GET /version HTTP/1.1\r\nHost: agent.test\r\nX: "+strings.Repeat("x", 1000))),
		slow("a byte of the body every second", drip(header+"Content-Length: 1000\r\n\r\n"+strings.Repeat(" ", 1000))),
		{Group: group, Name: "stops in the TLS handshake", Slow: true, Do: func(ctx context.Context, t *Target) Observation {
			return handshakeOnly(ctx, t, func(conn net.Conn) error {
				_, err := conn.Write(t.clientHello())
				return err
			})
		}},
	}
}

// last reads what may come, which is at most one answer, and the end.
func (s *stream) last() Observation {
	a, _, err := s.answer(http.MethodGet, "")
	if err != nil {
		return Observation{End: ending(err)}
	}
	return Observation{Answers: []Answer{a}, End: s.ending()}
}

// drip sends a byte every second, after the first part of a text up to its last long run.
func drip(text string) func(context.Context, *Target, *stream) Observation {
	return func(ctx context.Context, _ *Target, s *stream) Observation {
		done := make(chan Observation, 1)
		go func() { done <- s.last() }()
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		at := len(text) - 1000
		next := text[:at]
		for {
			if _, err := s.conn.Write([]byte(next)); err != nil {
				return <-done
			}
			select {
			case o := <-done:
				return o
			case <-tick.C:
				next = text[at : at+1]
				at = min(at+1, len(text)-2) // never all of it
			}
		}
	}
}

// handshakeOnly does something to a fresh TCP connection and waits for its end.
func handshakeOnly(ctx context.Context, t *Target, do func(net.Conn) error) Observation {
	ctx, cancel := context.WithTimeout(ctx, t.Patience)
	defer cancel()
	conn, err := t.Dial(ctx)
	if err != nil {
		return Observation{End: ending(err)}
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return Observation{End: ending(err)}
	}
	begin := time.Now()
	if err := do(conn); err != nil {
		return Observation{End: ending(err)}
	}
	s := newStream(t, conn)
	return Observation{End: s.ending(), Note: fmt.Sprintf("after %.0f s", time.Since(begin).Seconds())}
}

// clientHello is the first message of TLS to the agent, as crypto/tls makes it.
func (t *Target) clientHello() []byte {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	config := t.tlsConfig(t.Client)
	go func() { _ = tls.Client(near, config).Handshake() }() // ends when the pipe is closed
	b := make([]byte, 16<<10)
	n, _ := far.Read(b)
	return b[:n]
}

// tlsCases are about who is let in, and how.
func tlsCases() []Case {
	const group = "TLS"
	client := func(name string, config func(t *Target) *tls.Config) Case {
		return Case{Group: group, Name: name, Do: func(ctx context.Context, t *Target) Observation { return hello(ctx, t, config(t)) }}
	}
	with := func(name string, cert func(t *Target) []tls.Certificate) []Case {
		var cases []Case
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			cases = append(cases, client(tls.VersionName(version)+", "+name, func(t *Target) *tls.Config {
				c := t.tlsConfig()
				c.MinVersion, c.MaxVersion = version, version
				certs := cert(t)
				// The server's hints would keep a strange certificate from being sent at all.
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if len(certs) == 0 {
						return new(tls.Certificate), nil
					}
					return &certs[0], nil
				}
				return c
			}))
		}
		return cases
	}
	one := func(pick func(t *Target) tls.Certificate) func(t *Target) []tls.Certificate {
		return func(t *Target) []tls.Certificate { return []tls.Certificate{pick(t)} }
	}
	cases := with("Keylime's certificate", one(func(t *Target) tls.Certificate { return t.Client }))
	cases = append(cases, with("no certificate", func(*Target) []tls.Certificate { return nil })...)
	cases = append(cases, with("a certificate of another CA of that name", one(func(t *Target) tls.Certificate { return t.Stranger }))...)
	cases = append(cases, with("an expired certificate", one(func(t *Target) tls.Certificate { return t.Expired }))...)
	cases = append(cases, with("a certificate of the future", one(func(t *Target) tls.Certificate { return t.Future }))...)
	cases = append(cases, with("a certificate for servers", one(func(t *Target) tls.Certificate { return t.Server }))...)
	cases = append(cases, with("Keylime's certificate with another's key", one(func(t *Target) tls.Certificate {
		return tls.Certificate{Certificate: t.Client.Certificate, PrivateKey: t.Stranger.PrivateKey}
	}))...)
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		cases = append(cases, client(tls.VersionName(version), func(t *Target) *tls.Config {
			c := t.tlsConfig(t.Client)
			c.MinVersion, c.MaxVersion = version, version
			return c
		}))
	}
	suite := func(id uint16) Case {
		return client("TLS 1.2, "+tls.CipherSuiteName(id), func(t *Target) *tls.Config {
			c := t.tlsConfig(t.Client)
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{id}
			return c
		})
	}
	for _, id := range []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA} {
		cases = append(cases, suite(id))
	}
	for _, protocols := range [][]string{{"h2", "http/1.1"}, {"http/1.1"}, {"h2"}, {"nonsense"}} {
		cases = append(cases, client("ALPN "+strings.Join(protocols, ", "), func(t *Target) *tls.Config {
			c := t.tlsConfig(t.Client)
			c.NextProtos = protocols
			return c
		}))
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cases = append(cases, Case{Group: group, Name: tls.VersionName(version) + ", resumption", Do: func(ctx context.Context, t *Target) Observation {
			c := t.tlsConfig(t.Client)
			c.MinVersion, c.MaxVersion, c.ClientSessionCache = version, version, tls.NewLRUClientSessionCache(1)
			if first := hello(ctx, t, c); len(first.Answers) == 0 {
				return first
			}
			return hello(ctx, t, c)
		}})
	}
	return append(cases,
		Case{Group: group, Name: "plain HTTP", Ingress: true, Do: func(ctx context.Context, t *Target) Observation {
			return plain(ctx, t, "GET /version HTTP/1.1\r\n\r\n")
		}})
}

// hello asks for the version over a TLS connection of that configuration, and tells what was agreed on. An agent that refuses the client
// after that has sent its request (TLS 1.3) resets the connection, which may overtake the alert: then it is asked again.
func hello(ctx context.Context, t *Target, c *tls.Config) Observation {
	for n := 1; ; n++ {
		if o := helloOnce(ctx, t, c); o.End != endClosed || n == attempts || ctx.Err() != nil {
			return o
		}
	}
}

func helloOnce(ctx context.Context, t *Target, c *tls.Config) Observation {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	conn, err := t.open(ctx, c)
	if err != nil {
		return Observation{End: ending(err)}
	}
	defer conn.Close()
	state := conn.ConnectionState()
	version := request{method: http.MethodGet, path: "/version"}
	var a Answer
	if state.NegotiatedProtocol == "h2" {
		a, err = t.http2Answer(ctx, t.http2Client(conn), version)
	} else {
		s := newStream(t, conn)
		s.send(version.bytes(t.ServerName))
		a, _, err = s.answer(http.MethodGet, "")
		state = conn.ConnectionState()
	}
	if err != nil {
		return Observation{End: ending(err)}
	}
	end := "over " + tls.VersionName(state.Version)
	if state.NegotiatedProtocol != "" {
		end += ", " + state.NegotiatedProtocol
	}
	if state.DidResume {
		end += ", resumed"
	}
	return Observation{Answers: []Answer{a}, End: end}
}

// plain sends a text without TLS. Whatever comes that is no HTTP is not told apart from nothing.
func plain(ctx context.Context, t *Target, text string) Observation {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	conn, err := t.Dial(ctx)
	if err != nil {
		return Observation{End: ending(err)}
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return Observation{End: ending(err)}
	}
	s := newStream(t, conn)
	s.send([]byte(text))
	return s.last()
}

// directCases are done at the agent's own socket: what no ingress that goes by the server name lets through.
func directCases() []Case {
	const group = "at the agent's socket"
	cases := []Case{
		{Group: group, Name: "no server name", Do: func(ctx context.Context, t *Target) Observation {
			c := t.tlsConfig(t.Client)
			c.ServerName = ""
			return hello(ctx, t, c)
		}},
		{Group: group, Name: "another server name", Do: func(ctx context.Context, t *Target) Observation {
			c := t.tlsConfig(t.Client)
			c.ServerName = "other.test"
			return hello(ctx, t, c)
		}},
		{Group: group, Name: "plain HTTP", Do: func(ctx context.Context, t *Target) Observation {
			return plain(ctx, t, "GET /version HTTP/1.1\r\nHost: agent.test\r\n\r\n")
		}},
		{Group: group, Name: "plain nonsense", Do: func(ctx context.Context, t *Target) Observation {
			return plain(ctx, t, strings.Repeat("nonsense ", 100))
		}},
		{Group: group, Name: "says nothing at all", Slow: true, Do: func(ctx context.Context, t *Target) Observation {
			return handshakeOnly(ctx, t, func(net.Conn) error { return nil })
		}},
		{Group: group, Name: "half a TLS record", Slow: true, Do: func(ctx context.Context, t *Target) Observation {
			return handshakeOnly(ctx, t, func(conn net.Conn) error {
				_, err := conn.Write(t.clientHello()[:20])
				return err
			})
		}},
		{Group: group, Name: "a hundred connections that say nothing, then a good one", Do: func(ctx context.Context, t *Target) Observation {
			for range 100 {
				conn, err := t.Dial(ctx)
				if err != nil {
					return Observation{End: ending(err)}
				}
				defer conn.Close()
			}
			return hello(ctx, t, t.tlsConfig(t.Client))
		}},
	}
	for i := range cases {
		cases[i].Direct = true
	}
	return cases
}
