package hostlink

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
)

// What goes through the session are packets: each as long as it was, in their order, also where a deadline comes in the middle of one; and nobody hears any
// more of a connection that was closed.
func TestDialUDP(t *testing.T) {
	peer, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	c, _, _ := session(t)
	conn, err := c.Dial(testContext(t), "udp", peer.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	long := bytes.Repeat([]byte("x"), 60000)
	buffer := make([]byte, 1<<16)
	var client net.Addr
	for _, packet := range [][]byte{[]byte("one"), {}, long} {
		if n, err := conn.Write(packet); err != nil || n != len(packet) {
			t.Fatalf("send %d bytes: %d, %v", len(packet), n, err)
		}
		within(t, "a packet to the peer", func() {
			n, from, err := peer.ReadFrom(buffer)
			if err != nil || !bytes.Equal(buffer[:n], packet) {
				t.Errorf("the peer got %d bytes, want %d (%v)", n, len(packet), err)
			}
			client = from
		})
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(buffer); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("with a deadline, of a peer that says nothing: %v", err)
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	for _, packet := range [][]byte{[]byte("first"), long, []byte("last")} {
		if _, err := peer.WriteTo(packet, client); err != nil {
			t.Fatal(err)
		}
		within(t, "a packet to the client", func() {
			n, err := conn.Read(buffer)
			if err != nil || !bytes.Equal(buffer[:n], packet) {
				t.Errorf("got %d bytes, want %d (%v)", n, len(packet), err)
			}
		})
	}
	if _, err := peer.WriteTo([]byte("longer than there is room"), client); err != nil {
		t.Fatal(err)
	}
	within(t, "a packet that is too long", func() {
		if n, err := conn.Read(buffer[:6]); err != nil || string(buffer[:n]) != "longer" {
			t.Errorf("got %q, %v", buffer[:n], err)
		}
	})
	conn.Close()
	within(t, "the end", func() {
		if _, err := conn.Read(buffer); err == nil {
			t.Error("a closed connection can be read")
		}
	})
	if _, err := conn.Write(make([]byte, maxPacket+1)); err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a packet that is none: %v", err)
	}
}

// A deadline in the middle of a packet loses nothing of it.
func TestPacketInPieces(t *testing.T) {
	outer, inner := net.Pipe()
	c, err := NewClient(outer)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted := make(chan io.ReadWriteCloser, 1)
	go func() {
		s, err := serverSession(inner)
		if err != nil {
			close(accepted)
			return
		}
		stream, err := s.AcceptStream()
		if err != nil {
			close(accepted)
			return
		}
		accepted <- stream
	}()
	stream, err := c.session.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	p := &packets{stream: stream}
	if err := p.write([]byte("hello")); err != nil { // the stream is there for the other side with its first bytes
		t.Fatal(err)
	}
	other, ok := <-accepted
	if !ok {
		t.Fatal("no stream was accepted")
	}
	if _, err := other.Write([]byte{0, 4, 'p', 'a'}); err != nil {
		t.Fatal(err)
	}
	within(t, "half a packet", func() {
		for len(p.partial) < 4 {
			_ = stream.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := p.read(); err == nil {
				t.Fatal("half a packet was taken for one")
			}
		}
	})
	_ = stream.SetReadDeadline(time.Time{})
	if _, err := other.Write([]byte{'r', 't', 0, 1, 'x'}); err != nil {
		t.Fatal(err)
	}
	within(t, "the other half", func() {
		for _, want := range []string{"part", "x"} {
			if got, err := p.read(); err != nil || string(got) != want {
				t.Errorf("%q, %v; want %q", got, err, want)
			}
		}
	})
}

// serverSession is the inner end of a session, without what Serve does.
func serverSession(inner net.Conn) (*yamux.Session, error) { return yamux.Server(inner, settings()) }
