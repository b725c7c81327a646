package ingresstest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

func (s *suite) testRouting(t *testing.T) {
	// The shape of an agent's name: a UUID of 64 digits in two labels.
	names := []string{
		strings.Repeat("a", 32) + "." + strings.Repeat("1", 32) + ".routing.ingress.test",
		strings.Repeat("a", 32) + "." + strings.Repeat("2", 32) + ".routing.ingress.test",
		"short.routing.ingress.test",
	}
	certs := map[string][]byte{}
	for _, name := range names {
		b := s.backend(t, name)
		cert := certificate(t, name)
		certs[name] = cert.Certificate[0]
		go serveTLS(b, cert)
	}
	for range 2 {
		for _, name := range names {
			c := tls.Client(s.connect(t), &tls.Config{ServerName: name, InsecureSkipVerify: true}) // compared below
			if err := c.Handshake(); err != nil {
				t.Fatalf("TLS handshake with %s: %v", name, err)
			}
			if !bytes.Equal(c.ConnectionState().PeerCertificates[0].Raw, certs[name]) {
				t.Errorf("%s led to another backend's certificate: %v", name, c.ConnectionState().PeerCertificates[0].Subject)
			}
			write(t, c, []byte("ping"))
			expect(t, "the client", c, []byte("ping"))
			c.Close()
		}
	}
}

func (s *suite) testCase(t *testing.T) {
	b := s.backend(t, "mixed.Case.ingress.test")
	for _, name := range []string{"mixed.case.ingress.test", "MIXED.CASE.ingress.TEST"} {
		hello := s.hello(t, name)
		write(t, s.connect(t), hello)
		expect(t, "the backend", b.next(t), hello)
	}
}

func (s *suite) testSingleBytes(t *testing.T) {
	b := s.backend(t, "bytes.ingress.test")
	hello := s.hello(t, "bytes.ingress.test")
	c := s.connect(t)
	for i := range hello {
		write(t, c, hello[i:i+1])
	}
	expect(t, "the backend", b.next(t), hello)
}

func (s *suite) testLargeHello(t *testing.T) {
	const name = "large.ingress.test"
	b := s.backend(t, name)
	// An X25519MLKEM768 key share alone has 1216 bytes; long protocol names do
	// the rest, to more than one Ethernet segment.
	hello, err := ClientHello(name, []string{strings.Repeat("p", 200), strings.Repeat("q", 200)}, tls.X25519MLKEM768, tls.X25519)
	if err != nil {
		t.Fatal(err)
	}
	if len(hello) < 1700 {
		t.Fatalf("the hello has only %d bytes", len(hello))
	}
	write(t, s.connect(t), hello)
	expect(t, "the backend", b.next(t), hello)
}

func (s *suite) testUnchanged(t *testing.T) {
	b := s.backend(t, "same.ingress.test")
	// Bytes that follow the hello at once, as early data does, belong to the backend too.
	sent := append(s.hello(t, "same.ingress.test"), random(t, 3000)...)
	c := s.connect(t)
	write(t, c, sent)
	server := b.next(t)
	expect(t, "the backend", server, sent)
	back := random(t, 3000)
	write(t, server, back)
	expect(t, "the client", c, back)
}

func (s *suite) testMuchData(t *testing.T) {
	b := s.backend(t, "much.ingress.test")
	hello := s.hello(t, "much.ingress.test")
	up, down := random(t, 4<<20), random(t, 4<<20)
	c := s.connect(t)
	write(t, c, hello)
	server := b.next(t)
	expect(t, "the backend", server, hello)
	var writers sync.WaitGroup
	send := func(c net.Conn, data []byte) {
		writers.Go(func() {
			if _, err := c.Write(data); err != nil {
				t.Error("write:", err)
			}
		})
	}
	send(c, up)
	send(server, down)
	var got []byte
	var err error
	writers.Go(func() {
		got = make([]byte, len(up))
		_, err = io.ReadFull(server, got)
	})
	expect(t, "the client", c, down)
	writers.Wait()
	if err != nil || !bytes.Equal(got, up) {
		t.Errorf("the backend did not get the bytes that were sent: %v", err)
	}
}

func (s *suite) testClientHalfClose(t *testing.T) {
	b := s.backend(t, "client-first.ingress.test")
	hello := s.hello(t, "client-first.ingress.test")
	c := s.connect(t)
	write(t, c, hello)
	closeWrite(t, c)
	server := b.next(t)
	expect(t, "the backend", server, hello)
	expectEnd(t, "the backend", server)
	write(t, server, []byte("late answer"))
	server.Close()
	expect(t, "the client", c, []byte("late answer"))
	expectEnd(t, "the client", c)
}

func (s *suite) testBackendHalfClose(t *testing.T) {
	b := s.backend(t, "backend-first.ingress.test")
	hello := s.hello(t, "backend-first.ingress.test")
	c := s.connect(t)
	write(t, c, hello)
	server := b.next(t)
	expect(t, "the backend", server, hello)
	write(t, server, []byte("early word"))
	closeWrite(t, server)
	expect(t, "the client", c, []byte("early word"))
	expectEnd(t, "the client", c)
	write(t, c, []byte("last word"))
	c.Close()
	expect(t, "the backend", server, []byte("last word"))
	expectEnd(t, "the backend", server)
}

func (s *suite) testMany(t *testing.T) {
	const hosts, each = 10, 20
	var clients sync.WaitGroup
	for h := range hosts {
		name := fmt.Sprintf("many%d.ingress.test", h)
		b := s.backend(t, name)
		go func() {
			for c := range b.accepted {
				// What the client reads shows which backend it reached.
				go func() {
					defer c.Close()
					if _, err := io.ReadFull(c, make([]byte, 5)); err == nil {
						io.WriteString(c, name)
					}
				}()
			}
		}()
		hello := s.hello(t, name)
		for range each {
			clients.Go(func() {
				c, err := s.Dial()
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(Patience))
				got := make([]byte, len(name))
				if _, err = c.Write(hello); err == nil {
					_, err = io.ReadFull(c, got)
				}
				if err != nil || string(got) != name {
					t.Errorf("a connection for %s reached %q, error %v", name, got, err)
				}
			})
		}
	}
	clients.Wait()
}

func (s *suite) testUnknownName(t *testing.T) {
	b := s.backend(t, "known.ingress.test")
	s.refused(t, s.hello(t, "unknown.ingress.test"), b)
	if s.Alerts {
		c := s.connect(t)
		write(t, c, s.hello(t, "unknown.ingress.test"))
		// Record type alert, TLS 1.2 on the wire, 2 bytes: fatal, unrecognized_name.
		expect(t, "the client", c, []byte{21, 3, 3, 0, 2, 2, 112})
		expectEnd(t, "the client", c)
	}
}

func (s *suite) testPartOfName(t *testing.T) {
	b := s.backend(t, "node.part.ingress.test")
	for _, name := range []string{"part.ingress.test", "x.node.part.ingress.test", "node.part.ingress.test.org", "node"} {
		s.refused(t, s.hello(t, name), b)
	}
}

func (s *suite) testNoName(t *testing.T) {
	b := s.backend(t, "named.ingress.test")
	s.refused(t, s.hello(t, ""), b)
	s.refused(t, s.hello(t, "198.18.20.200"), b)
}

func (s *suite) testPlainText(t *testing.T) {
	b := s.backend(t, "plain.ingress.test")
	s.refused(t, []byte("GET / HTTP/1.1\r\nHost: plain.ingress.test\r\n\r\n"), b)
}

func (s *suite) testBackendDown(t *testing.T) {
	gone := s.backend(t, "")
	gone.Close()
	s.AddRoute("down.ingress.test", gone.Addr().String())
	up := s.backend(t, "up.ingress.test")
	s.refused(t, s.hello(t, "down.ingress.test"), up)
	hello := s.hello(t, "up.ingress.test")
	write(t, s.connect(t), hello)
	expect(t, "the backend that is up", up.next(t), hello)
}

func (s *suite) testSilence(t *testing.T) {
	hello := s.hello(t, "silent.ingress.test")
	b := s.backend(t, "silent.ingress.test")
	var clients []net.Conn
	for _, part := range [][]byte{nil, hello[:1], hello[:len(hello)-1]} {
		c := s.connect(t)
		c.SetDeadline(time.Now().Add(s.HelloTimeout + Patience))
		write(t, c, part)
		clients = append(clients, c)
	}
	for _, c := range clients {
		s.expectClosed(t, c)
	}
	if b.reached() {
		t.Error("an unfinished ClientHello reached the backend")
	}
}

func (s *suite) testSplitRecords(t *testing.T) {
	b := s.backend(t, "split.ingress.test")
	for _, size := range []int{1, 3, 100, 1000} {
		hello := Split(s.hello(t, "split.ingress.test"), size)
		write(t, s.connect(t), hello)
		expect(t, "the backend", b.next(t), hello)
	}
}

func (s *suite) testTrailingDot(t *testing.T) {
	b := s.backend(t, "dot.ingress.test")
	// Go's client takes a final dot off, so put one in the place of another character.
	hello := bytes.Replace(s.hello(t, "dot.ingress.testX"), []byte("dot.ingress.testX"), []byte("dot.ingress.test."), 1)
	write(t, s.connect(t), hello)
	expect(t, "the backend", b.next(t), hello)
}

// refused sends data and expects that the connection is closed without an
// answer of any backend, and that the given one saw nothing.
func (s *suite) refused(t *testing.T, data []byte, b *backend) {
	t.Helper()
	c := s.connect(t)
	write(t, c, data)
	s.expectClosed(t, c)
	if b.reached() {
		t.Error("the connection reached a backend")
	}
}

// expectClosed expects the ingress to close the connection, at most after a TLS alert.
func (s *suite) expectClosed(t *testing.T, c net.Conn) {
	t.Helper()
	got, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the ingress did not close the connection")
	}
	const alert, alertLen = 21, 7
	if len(got) > 0 && (got[0] != alert || len(got) != alertLen) {
		t.Errorf("the ingress answered %q", got)
	}
	c.Close()
}

func serveTLS(b *backend, cert tls.Certificate) {
	for c := range b.accepted {
		go func() {
			s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
			defer s.Close()
			io.Copy(s, s)
		}()
	}
}

// certificate makes a self-signed certificate for the name.
func certificate(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name[len(name)-20:]},
		DNSNames:     []string{name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func random(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}
