package hostlink

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
)

// Who connects to a port that was opened through the session speaks with who opened it, and is known by its address; a closed listener is closed in the
// container too.
func TestListen(t *testing.T) {
	c, _, _ := session(t)
	l, err := c.Listen(testContext(t), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, conn.RemoteAddr().String()+" ")
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	for range 3 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "hello"); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		within(t, "the answer", func() {
			got, err := io.ReadAll(conn)
			if want := conn.LocalAddr().String() + " hello"; err != nil || string(got) != want {
				t.Errorf("%q, %v; want %q", got, err, want)
			}
		})
		conn.Close()
	}
	if _, err := c.Listen(testContext(t), "tcp4", l.Addr().String()); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a port that is taken: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	within(t, "the port to be closed", func() {
		for {
			conn, err := net.Dial("tcp", l.Addr().String())
			if errors.Is(err, syscall.ECONNREFUSED) {
				return
			}
			if err == nil {
				conn.Close()
			}
		}
	})
	within(t, "an Accept after that", func() {
		if _, err := l.Accept(); err == nil {
			t.Error("a closed listener accepts")
		}
	})
}

// A UDP socket has many peers, each of which gets its own answer.
func TestListenPacket(t *testing.T) {
	c, _, _ := session(t)
	s, err := c.ListenPacket(testContext(t), "udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		buffer := make([]byte, 100)
		for {
			n, from, err := s.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = s.WriteTo([]byte(from.String()+" "+string(buffer[:n])), from)
		}
	}()
	for _, said := range []string{"one", "two"} {
		conn, err := net.Dial("udp4", s.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, said); err != nil {
			t.Fatal(err)
		}
		within(t, "the answer", func() {
			buffer := make([]byte, 100)
			n, err := conn.Read(buffer)
			if want := conn.LocalAddr().String() + " " + said; err != nil || string(buffer[:n]) != want {
				t.Errorf("%q, %v; want %q", buffer[:n], err, want)
			}
		})
	}
	s.Close()
	within(t, "the port to be closed", func() {
		for {
			again, err := net.ListenPacket("udp4", s.LocalAddr().String())
			if err == nil {
				again.Close()
				return
			}
		}
	})
}
