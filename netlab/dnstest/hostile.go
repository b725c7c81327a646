package dnstest

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// question is an agent's question in wire format, with the given identifier.
func (s *suite) question(t *testing.T, id uint16) []byte {
	t.Helper()
	q := new(dns.Msg).SetQuestion(agentName(s.domain), dns.TypeA)
	q.Id = id
	data, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (s *suite) testPipeline(t *testing.T) {
	const n = 20
	c := s.connect(t, "tcp")
	for id := range uint16(n) {
		if err := write("tcp", c, s.question(t, id)); err != nil {
			t.Fatalf("send question %d: %v", id, err)
		}
	}
	answered := map[uint16]bool{} // in any order (RFC 7766, section 7)
	for range n {
		got, err := read("tcp", c)
		if err != nil {
			t.Fatalf("%d of %d questions over one connection were answered: %v", len(answered), n, err)
		}
		reply := new(dns.Msg)
		if err := reply.Unpack(got); err != nil {
			t.Fatal("an answer:", err)
		}
		if err := s.check(reply, address(s.Zone.Wildcard)); err != nil {
			t.Errorf("question %d: %v", reply.Id, err)
		}
		answered[reply.Id] = true
	}
	if len(answered) != n {
		t.Errorf("%d answers to %d questions", len(answered), n)
	}
}

func (s *suite) testSingleBytes(t *testing.T) {
	c := s.connect(t, "tcp")
	q := s.question(t, 7)
	for _, b := range append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...) {
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal("send a byte of the question:", err)
		}
	}
	if got, err := read("tcp", c); err != nil || binary.BigEndian.Uint16(got) != 7 {
		t.Errorf("a question of single bytes was answered with %x, error %v", got, err)
	}
}

// header is a message's first 12 bytes: a question with the given counts of entries in its four sections.
func header(id, flags uint16, counts ...uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, id)
	b = binary.BigEndian.AppendUint16(b, flags)
	for _, n := range append(counts, 0, 0, 0, 0)[:4] {
		b = binary.BigEndian.AppendUint16(b, n)
	}
	return b
}

func (s *suite) testNoQuestion(t *testing.T) {
	two := new(dns.Msg).SetQuestion(agentName(s.domain), dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	update := new(dns.Msg).SetUpdate(s.origin)
	status := new(dns.Msg).SetQuestion(agentName(s.domain), dns.TypeA)
	status.Opcode = dns.OpcodeStatus
	notify := new(dns.Msg).SetNotify(s.origin)
	for _, c := range []struct {
		what string
		msg  *dns.Msg
		code int
	}{
		{"two questions", two, dns.RcodeFormatError},
		{"no question", &dns.Msg{MsgHdr: dns.MsgHdr{Id: dns.Id()}}, dns.RcodeFormatError},
		{"an update", update, dns.RcodeNotImplemented},
		{"a request for the status", status, dns.RcodeNotImplemented},
		{"a notification", notify, dns.RcodeNotImplemented},
	} {
		for _, network := range networks {
			data, err := c.msg.Pack()
			if err != nil {
				t.Fatal(err)
			}
			conn := s.connect(t, network)
			if err := write(network, conn, data); err != nil {
				t.Fatalf("%s over %s: send it: %v", c.what, network, err)
			}
			got, err := read(network, conn)
			if err != nil {
				t.Errorf("%s over %s: no answer: %v", c.what, network, err)
				continue
			}
			reply := new(dns.Msg)
			if err := reply.Unpack(got); err != nil || reply.Id != c.msg.Id || reply.Rcode != c.code || len(reply.Answer) > 0 {
				t.Errorf("%s over %s: error %v, answer %v; want %s", c.what, network, err, reply, dns.RcodeToString[c.code])
			}
		}
	}
	s.alive(t, "what is no question")
}

// garbled are messages that no client should send, all with the identifier 1.
func (s *suite) garbled(t *testing.T) map[string][]byte {
	t.Helper()
	whole := s.question(t, 1)
	question := header(1, 0, 1)
	ending := []byte{0, 0, byte(dns.TypeA), 0, dns.ClassINET} // the root, type and class
	long := func(labels, size int) []byte {
		return bytes.Repeat(append([]byte{byte(size)}, strings.Repeat("a", size)...), labels)
	}
	noise := make([]byte, 1000)
	rand.Read(noise)
	binary.BigEndian.PutUint16(noise, 1)
	return map[string][]byte{
		"nothing":                            {},
		"one byte":                           whole[:1],
		"half a header":                      whole[:6],
		"a header alone":                     whole[:12],
		"a question cut off in its name":     whole[:20],
		"a question cut off before its end":  whole[:len(whole)-1],
		"bytes after the question":           append(bytes.Clone(whole), 1, 2, 3),
		"more entries than there are":        append(header(1, 0, 1, 1, 1, 2), whole[12:]...),
		"65535 questions":                    append(header(1, 0, 0xffff), whole[12:]...),
		"noise":                              noise,
		"a name that points at itself":       append(bytes.Clone(question), 0xc0, 12, 0, byte(dns.TypeA), 0, dns.ClassINET),
		"a name that points past the end":    append(bytes.Clone(question), 0xff, 0xff, 0, byte(dns.TypeA), 0, dns.ClassINET),
		"a label of an unknown kind":         append(append(bytes.Clone(question), 0x80, 1), ending...),
		"a label that ends past the end":     append(bytes.Clone(question), 63, 'a'),
		"a name of 320 bytes":                append(append(bytes.Clone(question), long(5, 63)...), ending...),
		"a name of 50000 bytes":              append(append(bytes.Clone(question), long(25_000, 1)...), ending...),
		"a question and 4000 bytes of zeros": append(bytes.Clone(whole), make([]byte, 4000)...),
		"60000 bytes of noise":               append(header(1, 0, 1), bytes.Repeat(noise, 60)[:60_000]...),
	}
}

// A garbled message is answered with an error or not at all, and the next
// client is served as if nothing had been.
func (s *suite) testGarbled(t *testing.T) {
	for what, message := range s.garbled(t) {
		for _, network := range networks {
			c := s.connect(t, network)
			if err := write(network, c, message); err != nil {
				t.Fatalf("%s over %s: send it: %v", what, network, err)
			}
			if network == "udp" {
				// The proper question that follows marks where an answer would have been.
				if err := write(network, c, s.question(t, 2)); err != nil {
					t.Fatalf("after %s over udp: send a question: %v", what, err)
				}
				if err := s.awaitAnswer(c, 2); err != nil {
					t.Errorf("%s over udp: %v", what, err)
				}
			}
			c.Close()
			s.alive(t, what+" over "+network)
		}
	}
}

// awaitAnswer waits for the answer with the identifier. Before it there may be
// errors, and an answer where there was a whole question in what is garbled.
func (s *suite) awaitAnswer(c net.Conn, id uint16) error {
	for {
		got, err := read("udp", c)
		if err != nil {
			return fmt.Errorf("the proper question that follows has no answer: %w", err)
		}
		reply := new(dns.Msg)
		if err := reply.Unpack(got); err != nil {
			return fmt.Errorf("it was answered with what is no message: %w", err)
		}
		if reply.Id == id {
			return s.check(reply, address(s.Zone.Wildcard))
		}
		if len(reply.Answer) > 0 && (len(reply.Question) != 1 || s.check(reply, address(s.Zone.Wildcard)) != nil) {
			return fmt.Errorf("it was answered with %v", reply)
		}
	}
}

// Two servers that answer answers would talk for ever to each other once
// somebody has sent one a packet in the other's name.
func (s *suite) testReflection(t *testing.T) {
	c := s.connect(t, "udp")
	response := s.question(t, 3)
	response[2] |= 0x80 // QR
	for _, m := range [][]byte{response, s.question(t, 4)} {
		if err := write("udp", c, m); err != nil {
			t.Fatal("send it:", err)
		}
	}
	c.SetReadDeadline(time.Now().Add(Patience))
	for answered := false; ; {
		got, err := read("udp", c)
		if answered && errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil || len(got) < 2 {
			t.Fatalf("the question after an answer got %x, error %v", got, err)
		}
		if id := binary.BigEndian.Uint16(got); id != 4 {
			t.Fatalf("the server answered an answer: %x", got)
		}
		answered = true
		c.SetReadDeadline(time.Now().Add(silence))
	}
}

// A client that says nothing more must not keep the server from others. The
// server may hang up on it after a while, though, and then others are served
// whatever it does; so they must be while the first of the silent still is.
func (s *suite) testStalled(t *testing.T) {
	var err error
	for deadline := time.Now().Add(Patience); time.Now().Before(deadline); {
		if err = s.stall(t); err == nil {
			return
		}
	}
	t.Errorf("in %v no client was served while others stood in the middle of their questions: %v", Patience, err)
}

// stall lets many clients stop, asks as another client, and then lets the first
// of them end its question, which must be answered.
func (s *suite) stall(t *testing.T) error {
	t.Helper()
	q := s.question(t, 5)
	whole := append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)
	const each = 20
	var clients []net.Conn
	defer func() {
		for _, c := range clients {
			c.Close()
		}
	}()
	for _, part := range [][]byte{whole[:len(whole)-1], whole[:2], whole[:1], nil} {
		for range each {
			c := s.connect(t, "tcp")
			clients = append(clients, c)
			if _, err := c.Write(part); err != nil {
				return fmt.Errorf("send %d bytes of %d: %w", len(part), len(whole), err)
			}
		}
	}
	s.alive(t, fmt.Sprintf("%d clients stopped in the middle", len(clients)))
	if _, err := clients[0].Write(whole[len(whole)-1:]); err != nil {
		return fmt.Errorf("send the last byte: %w", err)
	}
	got, err := read("tcp", clients[0])
	if err != nil || binary.BigEndian.Uint16(got) != 5 {
		return fmt.Errorf("a question that was ended late was answered with %x, error %v", got, err)
	}
	return nil
}
