package keylime

import (
	"net"
	"sync"
	"testing"
)

// silence is a server that accepts connections and never says a word.
type silence struct {
	port      string
	contacted chan struct{} // closed at the first connection
}

func silentListener(t *testing.T) *silence {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	s := &silence{port: port, contacted: make(chan struct{})}
	var mu sync.Mutex
	var conns []net.Conn
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			c.Close()
		}
	})
	go func() {
		first := true
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			if first {
				first = false
				close(s.contacted)
			}
		}
	}()
	return s
}
