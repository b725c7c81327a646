package parity

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Target is an agent to which cases are done.
type Target struct {
	UUID       string
	ServerName string // the agent's hostname, for the ingress; also in the Host field
	Dial       func(ctx context.Context) (net.Conn, error)

	Registered *x509.Certificate // the only one that is accepted of the agent
	AK         []byte            // TPM2B_PUBLIC, as registered

	Client   tls.Certificate // of Keylime's CA
	Stranger tls.Certificate // of another CA of the same name
	Expired  tls.Certificate // of Keylime's CA, but not valid any more
	Future   tls.Certificate // likewise, not valid yet
	Server   tls.Certificate // of Keylime's CA, for servers alone (extended key usage)

	// Timeout bounds one exchange, Patience one that waits for a deadline of the agent's.
	Timeout, Patience time.Duration
}

// tlsConfig is what Keylime's verifier does: the server name is sent, and the certificate must be the registered one, whatever is in it.
func (t *Target) tlsConfig(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{
		ServerName: t.ServerName, Certificates: certs,
		InsecureSkipVerify: true, // in favour of the next
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !s.PeerCertificates[0].Equal(t.Registered) {
				return errOtherCertificate
			}
			return nil
		},
	}
}

var errOtherCertificate = errors.New("not the registered certificate")

// open makes a TLS connection; nil is the usual configuration. The connection ends with ctx.
func (t *Target) open(ctx context.Context, config *tls.Config) (*tls.Conn, error) {
	if config == nil {
		config = t.tlsConfig(t.Client)
	}
	raw, err := t.Dial(ctx)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			conn.Close()
			return nil, err
		}
	}
	return conn, nil
}

// stream is a connection on which requests are written and answers read.
type stream struct {
	t    *Target
	conn net.Conn
	in   *bufio.Reader
}

func (t *Target) stream(ctx context.Context) (*stream, error) {
	conn, err := t.open(ctx, nil)
	if err != nil {
		return nil, err
	}
	return newStream(t, conn), nil
}

func newStream(t *Target, conn net.Conn) *stream {
	return &stream{t: t, conn: conn, in: bufio.NewReader(conn)}
}

// request is one HTTP request as it goes over the wire.
type request struct {
	method, path string
	fields       []string // "Name: value"
	body         []byte
	chunked      bool
	version      string // default HTTP/1.1
	noHost       bool
}

// bytes is the request's text. A body has its length announced, unless it is chunked or the fields say something themselves.
func (r request) bytes(host string) []byte {
	var out bytes.Buffer
	version := r.version
	if version == "" {
		version = "HTTP/1.1"
	}
	fmt.Fprintf(&out, "%s %s %s\r\n", r.method, r.path, version)
	if !r.noHost {
		fmt.Fprintf(&out, "Host: %s\r\n", host)
	}
	announced := r.body == nil
	for _, f := range r.fields {
		fmt.Fprintf(&out, "%s\r\n", f)
		lower := strings.ToLower(f)
		announced = announced || strings.HasPrefix(lower, "content-length:") || strings.HasPrefix(lower, "transfer-encoding:")
	}
	if r.chunked {
		out.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		for rest := r.body; len(rest) > 0; {
			n := min(len(rest), 8192)
			fmt.Fprintf(&out, "%x\r\n%s\r\n", n, rest[:n])
			rest = rest[n:]
		}
		out.WriteString("0\r\n\r\n")
		return out.Bytes()
	}
	if !announced {
		fmt.Fprintf(&out, "Content-Length: %d\r\n", len(r.body))
	}
	out.WriteString("\r\n")
	out.Write(r.body)
	return out.Bytes()
}

// send writes without waiting for it to end: an agent may answer, and close, before it has read all of a large request.
func (s *stream) send(data []byte) {
	go func() { _, _ = s.conn.Write(data) }() // the answer, or its absence, tells
}

// answer reads one answer to a request of that method. A 1xx is not the answer. nonce is that of the quote in it.
func (s *stream) answer(method, nonce string) (Answer, []byte, error) {
	for {
		response, err := http.ReadResponse(s.in, &http.Request{Method: method})
		if err != nil {
			return Answer{}, nil, err
		}
		body, err := io.ReadAll(io.LimitReader(response.Body, 1<<24))
		response.Body.Close()
		if err != nil {
			return Answer{}, nil, fmt.Errorf("the body: %w", err)
		}
		if response.StatusCode/100 == 1 && response.StatusCode != http.StatusSwitchingProtocols {
			continue
		}
		return s.t.observed(response, body, nonce), body, nil
	}
}

// observed makes an answer comparable. nonce is that of the quote in it.
func (t *Target) observed(response *http.Response, body []byte, nonce string) Answer {
	a := Answer{Status: response.StatusCode, Type: response.Header.Get("Content-Type"), Allow: allowed(response.Header)}
	a.Body = shape(a.Status, body, func(text string) string { return describeQuote(text, t.AK, nonce) })
	return a
}

// allowed is the Allow field with its methods in order.
func allowed(h http.Header) string {
	var methods []string
	for _, m := range strings.Split(strings.Join(h.Values("Allow"), ","), ",") {
		if m = strings.TrimSpace(m); m != "" {
			methods = append(methods, m)
		}
	}
	slices.Sort(methods)
	return strings.Join(methods, ", ")
}

// ending tells what has become of the connection: whether it ends within the target's deadline of the connection.
func (s *stream) ending() string {
	b := make([]byte, 4096)
	for {
		_, err := s.in.Read(b)
		if err != nil {
			return ending(err)
		}
	}
}

// largeBody is one, in bytes, that is not in the agent's buffers as a whole when it answers. An agent that closes then resets the connection,
// which may overtake the answer: that is no property of the agent, and it is asked again, up to attempts times.
const (
	largeBody = 64 << 10
	attempts  = 10
)

// exchange sends one request on a connection of its own and reads its answer.
func (t *Target) exchange(ctx context.Context, r request) (o Observation, body []byte) {
	for n := 1; ; n++ {
		o, body = t.exchangeOnce(ctx, r)
		if o.End != endClosed || len(r.body) < largeBody || n == attempts || ctx.Err() != nil {
			return o, body
		}
	}
}

func (t *Target) exchangeOnce(ctx context.Context, r request) (Observation, []byte) {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	s, err := t.stream(ctx)
	if err != nil {
		return Observation{End: ending(err)}, nil
	}
	defer s.conn.Close()
	s.send(r.bytes(t.ServerName))
	a, body, err := s.answer(r.method, nonceOf(r.path))
	if err != nil {
		return Observation{End: ending(err)}, nil
	}
	return Observation{Answers: []Answer{a}}, body
}

func nonceOf(path string) string {
	u, err := url.Parse(path)
	if err != nil {
		return ""
	}
	return u.Query().Get("nonce")
}

// How connections end.
const (
	endClosed  = "closed"
	endWaiting = "still open at the end of our patience"
	endBad     = "no HTTP answer"
)

// ending makes an error comparable: no address, no time, and no difference between the two ways to close a connection, which is up to
// what either side had still in its buffers.
func ending(err error) string {
	var alert tls.AlertError
	var op *net.OpError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &alert):
		return "TLS alert: " + strings.TrimPrefix(alert.Error(), "tls: ")
	case errors.As(err, &op) && op.Op == "remote error":
		return "TLS alert: " + strings.TrimPrefix(op.Err.Error(), "tls: ")
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return endWaiting
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.Is(err, net.ErrClosed):
		return endClosed
	case errors.Is(err, errOtherCertificate):
		return "another certificate than the registered one"
	case strings.Contains(err.Error(), "malformed HTTP"):
		return endBad
	}
	return "error: " + err.Error()
}

// payloadKey asks for the agent's payload key, to which key halves are encrypted.
func (t *Target) payloadKey(ctx context.Context) (*rsa.PublicKey, error) {
	o, body := t.exchange(ctx, request{method: http.MethodGet, path: "/v2.6/keys/pubkey"})
	var envelope struct {
		Results struct {
			Pubkey string `json:"pubkey"`
		} `json:"results"`
	}
	if err := json.Unmarshal(body, &envelope); err != nil {
		return nil, fmt.Errorf("ask for the payload key: %s: %w", o, err)
	}
	block, _ := pem.Decode([]byte(envelope.Results.Pubkey))
	if block == nil {
		return nil, fmt.Errorf("the payload key is not PEM: %q", envelope.Results.Pubkey)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the payload key: %w", err)
	}
	public, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("the payload key is a %T, want RSA", key)
	}
	return public, nil
}
