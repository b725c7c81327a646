package netlab

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"keylab.dev/keylab/netlab/ingresstest"
)

// startIngress serves on a free loopback port.
func startIngress(t testing.TB, opts IngressOptions) *Ingress {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := ServeIngress(context.Background(), l, new(net.Dialer).DialContext, opts)
	t.Cleanup(func() {
		if err := i.Close(); err != nil {
			t.Error("close the ingress:", err)
		}
	})
	return i
}

// helloFor is the ClientHello for a name.
func helloFor(t testing.TB, name string) []byte {
	t.Helper()
	hello, err := ingresstest.ClientHello(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return hello
}

// serveBackend answers each connection with "ok" once it has read n bytes.
func serveBackend(t testing.TB, n int) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := io.CopyN(io.Discard, c, int64(n)); err == nil {
					io.WriteString(c, "ok")
				}
			}()
		}
	}()
	return l.Addr().String()
}

// send connects, sends data and returns all that comes back.
func send(t testing.TB, i *Ingress, data []byte) string {
	t.Helper()
	c, err := net.Dial("tcp", i.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the ingress did not close the connection")
	}
	return string(got)
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("waited in vain for: " + what)
		}
	}
}

func TestIngressConformance(t *testing.T) {
	const helloTimeout = 2 * time.Second
	ingresstest.Run(t, func(t testing.TB) ingresstest.Target {
		i := startIngress(t, IngressOptions{HelloTimeout: helloTimeout, DrainTimeout: time.Millisecond})
		return ingresstest.Target{
			Addr: i.Addr().String(),
			AddRoute: func(host, backend string) {
				if err := i.SetRoute(host, backend); err != nil {
					t.Fatal(err)
				}
			},
			HelloTimeout: helloTimeout,
			Alerts:       true, SplitRecords: true, TrailingDot: true,
		}
	})
}

func TestIngressCountsByHostAndReason(t *testing.T) {
	i := startIngress(t, IngressOptions{HelloTimeout: time.Second, MaxHello: 4096})
	hello := helloFor(t, "a.lab.test")
	down, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down.Close()
	if err := i.ReplaceRoutes(map[string]string{
		"A.lab.test.": serveBackend(t, len(hello)), "down.lab.test": down.Addr().String(),
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := send(t, i, hello); got != "ok" {
			t.Errorf("the backend answered %q", got)
		}
	}
	if got := send(t, i, helloFor(t, "down.lab.test")); got != "" {
		t.Errorf("the backend that is down answered %q", got)
	}
	unrecognized, missing, decode := "\x15\x03\x03\x00\x02\x02\x70", "\x15\x03\x03\x00\x02\x02\x6d", "\x15\x03\x03\x00\x02\x02\x32"
	huge := append([]byte{22, 3, 1, 0x40, 0}, make([]byte, 1<<14)...)
	copy(huge[5:], []byte{1, 0, 0x3f, 0xfc})
	for _, c := range []struct {
		data  string
		reply string
	}{
		{string(helloFor(t, "b.lab.test")), unrecognized},
		{string(helloFor(t, "")), missing},
		{string(helloFor(t, "198.18.20.200")), missing}, // clients send no name for an address
		{string(huge[:4097]), decode},
		{"GET / HTTP/1.1\r\n\r\n", ""},
		{"x", ""},
		{"\x16\x03\x01\x00\x05", ""}, // and then silence
	} {
		if got := send(t, i, []byte(c.data)); got != c.reply {
			t.Errorf("%.20q…: reply %q, want %q", c.data, got, c.reply)
		}
	}
	c, err := net.Dial("tcp", i.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	want := map[Reason]uint64{ReasonUnknownName: 1, ReasonNoSNI: 2, ReasonTooLarge: 1, ReasonNotTLS: 2, ReasonTimeout: 1, ReasonClosed: 1}
	eventually(t, "every refusal counted and no connection active", func() bool {
		s := i.Stats()
		return maps.Equal(s.Refused, want) && s.Active == 0
	})
	s := i.Stats()
	wantA := HostStats{Connections: 2, BytesIn: uint64(2 * len(hello)), BytesOut: 4}
	if s.ByHost["a.lab.test"] != wantA || s.ByHost["down.lab.test"] != (HostStats{Errors: 1}) || len(s.ByHost) != 2 {
		t.Errorf("hosts: %+v", s.ByHost)
	}
}

func TestIngressRoutes(t *testing.T) {
	i := startIngress(t, IngressOptions{})
	hello := helloFor(t, "a.lab.test")
	backend := serveBackend(t, len(hello))
	for _, c := range [][2]string{{"198.18.0.1", backend}, {"", backend}, {"a b", backend}, {"a..b", backend}, {strings.Repeat("x", 64) + ".test", backend}, {"a.lab.test", "nowhere"}} {
		if err := i.SetRoute(c[0], c[1]); err == nil {
			t.Errorf("route %q to %q was taken", c[0], c[1])
		}
	}
	if err := i.ReplaceRoutes(map[string]string{"a.lab.test": backend, "A.LAB.test": backend}); err == nil {
		t.Error("two routes for one name were taken")
	}
	if err := i.SetRoute("A.lab.test.", backend); err != nil {
		t.Fatal(err)
	}
	if got := i.Routes(); !maps.Equal(got, map[string]string{"a.lab.test": backend}) {
		t.Errorf("routes: %v", got)
	}
	if got := send(t, i, hello); got != "ok" {
		t.Errorf("the backend answered %q", got)
	}
	if !i.RemoveRoute("a.LAB.test") || i.RemoveRoute("a.lab.test") {
		t.Error("RemoveRoute said the wrong thing")
	}
	if got := send(t, i, hello); got == "ok" {
		t.Error("a removed route still leads to the backend")
	}
}

func TestIngressLeavesNothingOpen(t *testing.T) {
	before, filesBefore := runtime.NumGoroutine(), openFiles(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := ServeIngress(context.Background(), l, new(net.Dialer).DialContext, IngressOptions{})
	hello := helloFor(t, "a.lab.test")
	bl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for n := 0; ; {
			c, err := bl.Accept()
			if err != nil {
				return
			}
			// Some close at once, with the hello unread; some in order.
			if n++; n%2 == 0 {
				io.CopyN(io.Discard, c, int64(len(hello)))
			}
			c.Close()
		}
	}()
	if err := i.SetRoute("a.lab.test", bl.Addr().String()); err != nil {
		t.Fatal(err)
	}
	const clients, each = 50, 40
	var wg sync.WaitGroup
	for n := range clients {
		wg.Go(func() {
			for k := range each {
				c, err := net.Dial("tcp", i.Addr().String())
				if err != nil {
					t.Error(err)
					return
				}
				// Some leave without a word, some in the middle of one.
				c.Write(hello[:len(hello)*((n+k)%3)/2])
				c.Close()
			}
		})
	}
	wg.Wait()
	eventually(t, "all connections to end", func() bool { return i.Stats().Active == 0 })
	if err := i.Close(); err != nil {
		t.Error(err)
	}
	bl.Close()
	eventually(t, "all goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
	// At once: later, the garbage collector would close what was forgotten.
	if now := openFiles(t); now > filesBefore {
		t.Errorf("%d files were open before, %d are now", filesBefore, now)
	}
}

// openFiles is how many file descriptors this process has.
func openFiles(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// longConnection starts a connection through the ingress and returns once it has passed.
func longConnection(t *testing.T, i *Ingress) (client, backend net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := i.SetRoute("long.lab.test", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if client, err = net.Dial("tcp", i.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	hello := helloFor(t, "long.lab.test")
	if _, err := client.Write(hello); err != nil {
		t.Fatal(err)
	}
	if backend, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { backend.Close() })
	for _, c := range []net.Conn{client, backend} {
		c.SetDeadline(time.Now().Add(patience))
	}
	if _, err := io.CopyN(io.Discard, backend, int64(len(hello))); err != nil {
		t.Fatal(err)
	}
	return client, backend
}

func TestIngressShutdownLetsConnectionsEnd(t *testing.T) {
	i := startIngress(t, IngressOptions{})
	client, backend := longConnection(t, i)
	done := make(chan error, 1)
	go func() { done <- i.Shutdown(testContext(t)) }()
	eventually(t, "the ingress to take no more connections", func() bool {
		c, err := net.Dial("tcp", i.Addr().String())
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	io.WriteString(backend, "still here")
	backend.Close()
	if got, err := io.ReadAll(client); err != nil || string(got) != "still here" {
		t.Errorf("the open connection brought %q, error %v", got, err)
	}
	client.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestIngressShutdownEndsWhatDoesNot(t *testing.T) {
	i := startIngress(t, IngressOptions{HelloTimeout: time.Hour})
	client, backend := longConnection(t, i)
	silent, err := net.Dial("tcp", i.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	silent.SetDeadline(time.Now().Add(patience))
	eventually(t, "both connections to be taken", func() bool { return i.Stats().Active == 2 })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := i.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown returned %v", err)
	}
	for who, c := range map[string]net.Conn{"client": client, "backend": backend, "silent client": silent} {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the %s's connection did not end: %v", who, err)
		}
	}
}

func TestIngressEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	i := ServeIngress(ctx, l, new(net.Dialer).DialContext, IngressOptions{DrainTimeout: time.Millisecond})
	client, _ := longConnection(t, i)
	cancel()
	if _, err := client.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection did not end: %v", err)
	}
	i.running.Wait()
}

func TestIngressCountsABrokenConnection(t *testing.T) {
	i := startIngress(t, IngressOptions{})
	client, backend := longConnection(t, i)
	backend.(*net.TCPConn).SetLinger(0) // close with a reset
	backend.Close()
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("the client's connection goes on without a backend")
	}
	eventually(t, "the error counted", func() bool { return i.Stats().ByHost["long.lab.test"].Errors == 1 })
}

// pipeListener hands out in-memory connections.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	c, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l pipeListener) Close() error   { close(l); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// The clock of a synctest bubble makes minutes pass at once.
func TestIngressIdleTimeout(t *testing.T) {
	hello := helloFor(t, "a.lab.test")
	synctest.Test(t, func(t *testing.T) {
		l := make(pipeListener)
		server, backend := net.Pipe()
		i := ServeIngress(context.Background(), l, func(context.Context, string, string) (net.Conn, error) { return backend, nil },
			IngressOptions{IdleTimeout: time.Minute})
		defer i.Close()
		if err := i.SetRoute("a.lab.test", "backend:1"); err != nil {
			t.Fatal(err)
		}
		client, accepted := net.Pipe()
		l <- accepted
		go client.Write(hello)
		if _, err := io.ReadFull(server, make([]byte, len(hello))); err != nil {
			t.Fatal(err)
		}
		// Traffic in one direction alone keeps both open.
		for range 5 {
			time.Sleep(50 * time.Second)
			go io.WriteString(server, "x")
			if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
				t.Fatal("closed while one side was talking:", err)
			}
		}
		start := time.Now()
		if _, err := client.Read(make([]byte, 1)); err == nil {
			t.Error("the idle connection goes on")
		}
		if idle := time.Since(start); idle != time.Minute {
			t.Errorf("closed after %v, want a minute", idle)
		}
		synctest.Wait()
		if got := i.Stats().ByHost["a.lab.test"].Errors; got != 1 {
			t.Errorf("%d errors counted", got)
		}
	})
}
