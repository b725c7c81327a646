// Package ingresstest holds the conformance tests of a TLS ingress that passes
// connections through by server name (SNI). Every implementation that a lab can
// use has to pass them, so that an experiment means the same behind each:
//
//	func TestConformance(t *testing.T) {
//		ingresstest.Run(t, func(t testing.TB) ingresstest.Target {
//			return ingresstest.Target{Addr: …, AddRoute: …}
//		})
//	}
//
// Nothing in the tests depends on the speed of the machine: they wait for what
// must happen, and give up only after [Patience].
package ingresstest

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// Patience is how long a test waits for what must happen.
const Patience = 30 * time.Second

// Target is the ingress under test.
type Target struct {
	// Addr is where the tests connect to: host:port.
	Addr string
	// AddRoute sends connections for the host name to the backend. It returns
	// when the route is in force, and fails the test if that cannot be.
	AddRoute func(hostname, backend string)
	// Dial connects to the ingress; nil means over TCP from this process.
	Dial func() (net.Conn, error)
	// Listen opens a socket that the ingress can reach as a backend; nil means
	// a free port of 127.0.0.1.
	Listen func() (net.Listener, error)
	// HelloTimeout is how long the ingress waits for a ClientHello. 0 leaves
	// out the test of it.
	HelloTimeout time.Duration

	// What only some implementations can do:

	Alerts       bool // refuses a name with the fatal alert unrecognized_name before it closes
	SplitRecords bool // understands a ClientHello in several TLS records
	TrailingDot  bool // understands a server name with a final dot
}

// Run runs all tests against the ingress that target returns; target is called once.
func Run(t *testing.T, target func(t testing.TB) Target) {
	s := &suite{Target: target(t)}
	if s.Dial == nil {
		s.Dial = func() (net.Conn, error) { return net.DialTimeout("tcp", s.Addr, Patience) }
	}
	if s.Listen == nil {
		s.Listen = func() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
	}
	t.Run("each name leads to its own backend", s.testRouting)
	t.Run("names are compared without regard to case", s.testCase)
	t.Run("a hello of single bytes", s.testSingleBytes)
	t.Run("a large post-quantum hello", s.testLargeHello)
	t.Run("bytes pass unchanged", s.testUnchanged)
	t.Run("much data both ways at once", s.testMuchData)
	t.Run("the client ends its direction first", s.testClientHalfClose)
	t.Run("the backend ends its direction first", s.testBackendHalfClose)
	t.Run("many connections at once", s.testMany)
	t.Run("an unknown name reaches no backend", s.testUnknownName)
	t.Run("a part of a known name reaches no backend", s.testPartOfName)
	t.Run("no name reaches no backend", s.testNoName)
	t.Run("plain text reaches no backend", s.testPlainText)
	t.Run("a backend that is down", s.testBackendDown)
	if s.HelloTimeout > 0 {
		t.Run("silence is ended", s.testSilence)
	}
	if s.SplitRecords {
		t.Run("a hello in several records", s.testSplitRecords)
	}
	if s.TrailingDot {
		t.Run("a name with a final dot", s.testTrailingDot)
	}
}

// ClientHello returns what Go's TLS client sends first for the server name
// (none if it is "" or an IP literal): one record, with a post-quantum key
// share unless curves say otherwise, and the given application protocols.
func ClientHello(name string, protocols []string, curves ...tls.CurveID) ([]byte, error) {
	c := &recorder{}
	err := tls.Client(c, &tls.Config{
		ServerName:         name,
		InsecureSkipVerify: true, // no server ever answers here
		NextProtos:         protocols,
		CurvePreferences:   curves,
	}).Handshake()
	if !errors.Is(err, errRecorded) {
		return nil, err
	}
	return c.sent.Bytes(), nil
}

var errRecorded = errors.New("recorded")

// recorder is a connection to nobody that keeps what is written.
type recorder struct {
	net.Conn
	sent bytes.Buffer
}

func (r *recorder) Write(b []byte) (int, error)        { return r.sent.Write(b) }
func (r *recorder) Read([]byte) (int, error)           { return 0, errRecorded }
func (r *recorder) Close() error                       { return nil }
func (r *recorder) SetDeadline(time.Time) error        { return nil }
func (r *recorder) SetReadDeadline(time.Time) error    { return nil }
func (r *recorder) SetWriteDeadline(t time.Time) error { return nil }

// Split cuts a ClientHello of one record into records of at most size bytes each.
func Split(hello []byte, size int) []byte {
	const header = 5
	var out []byte
	for rest := hello[header:]; len(rest) > 0; {
		n := min(size, len(rest))
		out = append(out, hello[0], hello[1], hello[2], byte(n>>8), byte(n))
		out = append(out, rest[:n]...)
		rest = rest[n:]
	}
	return out
}

// suite is a target with its defaults filled in.
type suite struct{ Target }

func (s *suite) hello(t *testing.T, name string) []byte {
	t.Helper()
	hello, err := ClientHello(name, nil)
	if err != nil {
		t.Fatal("make a ClientHello:", err)
	}
	return hello
}

func (s *suite) connect(t *testing.T) net.Conn {
	t.Helper()
	c, err := s.Dial()
	if err != nil {
		t.Fatal("connect to the ingress:", err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(Patience))
	return c
}

// backend is a listening socket with a route to it.
type backend struct {
	net.Listener
	accepted chan net.Conn
}

// backend listens, adds a route for the name (none if ""), and accepts.
func (s *suite) backend(t *testing.T, name string) *backend {
	t.Helper()
	l, err := s.Listen()
	if err != nil {
		t.Fatal("listen as a backend:", err)
	}
	b := &backend{Listener: l, accepted: make(chan net.Conn, 1024)}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(Patience))
			b.accepted <- c
		}
	}()
	if name != "" {
		s.AddRoute(name, l.Addr().String())
	}
	return b
}

// next waits for the backend's next connection.
func (b *backend) next(t *testing.T) net.Conn {
	t.Helper()
	select {
	case c := <-b.accepted:
		t.Cleanup(func() { c.Close() })
		return c
	case <-time.After(Patience):
		t.Fatal("no connection reached the backend")
		return nil
	}
}

// reached says whether a connection has reached the backend so far.
func (b *backend) reached() bool { return len(b.accepted) > 0 }

func write(t *testing.T, c net.Conn, data []byte) {
	t.Helper()
	if _, err := c.Write(data); err != nil {
		t.Fatalf("write %d bytes: %v", len(data), err)
	}
}

func closeWrite(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal("half-close:", err)
	}
}

// expect reads exactly the wanted bytes.
func expect(t *testing.T, who string, c io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("%s read %d of %d bytes: %v", who, n, len(want), err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%s did not get the bytes that were sent (%d bytes)", who, len(want))
	}
}

// expectEnd reads the end of the other side's direction.
func expectEnd(t *testing.T, who string, c io.Reader) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("%s read %d bytes, error %v; want the end", who, n, err)
	}
}
