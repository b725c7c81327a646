package hostlink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"keylab.dev/keylab/netlab"
)

// patience bounds what must happen at once.
const patience = 10 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	return ctx
}

// session is a client, the inner end of its stream, and how Serve ended.
func session(t *testing.T) (*Client, net.Conn, <-chan error) {
	t.Helper()
	outer, inner := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(context.Background(), inner) }()
	c, err := NewClient(outer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, inner, served
}

func listen(t *testing.T, handle func(*net.TCPConn)) string {
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
			go handle(c.(*net.TCPConn))
		}
	}()
	return l.Addr().String()
}

// within fails the test unless f ends in time.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
	}
}

// silentLink is a link to a network in which nobody answers.
func silentLink(t *testing.T, name, addr string) {
	t.Helper()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { netlink.LinkDel(veth) })
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := netlink.LinkByName(name + "p")
	if err != nil {
		t.Fatal(err)
	}
	// The far end has no address and answers no ARP.
	if err := errors.Join(netlink.LinkSetARPOff(peer), netlink.LinkSetUp(peer), netlink.AddrAdd(veth, a), netlink.LinkSetUp(veth)); err != nil {
		t.Fatal(err)
	}
}

func hasRoute(t *testing.T, to string) bool {
	t.Helper()
	routes, err := netlink.RouteList(nil, unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Dst != nil && r.Dst.String() == to {
			return true
		}
	}
	return false
}

func TestHalfClose(t *testing.T) {
	c, _, _ := session(t)
	addr := listen(t, func(c *net.TCPConn) {
		defer c.Close()
		said, _ := io.ReadAll(c) // ends only with the client's direction
		fmt.Fprintf(c, "heard %d", len(said))
	})
	conn, err := c.Dial(testContext(t), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	within(t, "the answer after a half-close", func() {
		conn.Write(make([]byte, 1<<20))
		conn.(interface{ CloseWrite() error }).CloseWrite()
		got, err := io.ReadAll(conn)
		if string(got) != "heard 1048576" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestErrorsKeepTheirKind(t *testing.T) {
	c, _, _ := session(t)
	ctx := testContext(t)
	for _, tc := range []struct {
		network, addr string
		want          error
	}{
		{"tcp", "127.0.0.1:1", syscall.ECONNREFUSED},
		{"tcp", "198.19.255.1:80", syscall.ENETUNREACH},
		{"unix", "/nonexistent/socket", syscall.ENOENT},
	} {
		if _, err := c.Dial(ctx, tc.network, tc.addr); !errors.Is(err, tc.want) {
			t.Errorf("dial %s: %v, want %v", tc.addr, err, tc.want)
		}
	}
}

func TestProbeTellsRefusedFromSilentFromOpen(t *testing.T) {
	c, _, _ := session(t)
	open := netip.MustParseAddrPort(listen(t, func(c *net.TCPConn) { c.Close() }))
	silentLink(t, "silent", "198.18.30.1/24")
	for _, tc := range []struct {
		to      netip.AddrPort
		timeout time.Duration
		want    netlab.Outcome
	}{
		{open, patience, netlab.OutcomeOpen},
		{netip.MustParseAddrPort("127.0.0.1:1"), patience, netlab.OutcomeRefused},
		{netip.MustParseAddrPort("198.18.30.9:80"), 200 * time.Millisecond, netlab.OutcomeTimeout},
		{netip.MustParseAddrPort("198.19.255.1:80"), patience, netlab.OutcomeUnreachable},
	} {
		if got := c.Probe(testContext(t), "tcp", tc.to, nil, tc.timeout); got.Outcome != tc.want {
			t.Errorf("%s: %v, want %s", tc.to, got, tc.want)
		}
	}
}

func TestManyDialsAtOnce(t *testing.T) {
	c, _, _ := session(t)
	addr := listen(t, func(c *net.TCPConn) { io.Copy(c, c); c.Close() })
	ctx := testContext(t)
	var all, dialled sync.WaitGroup
	dialled.Add(400)
	for i := range 400 {
		all.Go(func() {
			conn, err := c.Dial(ctx, "tcp", addr)
			dialled.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			dialled.Wait() // all are open at the same time
			want := fmt.Sprintf("message %d", i)
			got := make([]byte, len(want))
			io.WriteString(conn, want)
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
	within(t, "400 dials", all.Wait)
}

func TestPeerDies(t *testing.T) {
	c, inner, served := session(t)
	addr := listen(t, func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	conn, err := c.Dial(testContext(t), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	inner.Close()
	within(t, "the end of a connection and of Serve", func() {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("read from a dead peer")
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	if !c.Closed() {
		t.Error("the client does not know that its session ended")
	}
	if _, err := c.Inspect(testContext(t)); err == nil {
		t.Error("an operation on a dead session succeeded")
	}
}

func TestCancelEndsTheProgramInside(t *testing.T) {
	c, _, served := session(t)
	ctx, cancel := context.WithCancel(testContext(t))
	time.AfterFunc(100*time.Millisecond, cancel)
	within(t, "the cancelled call", func() {
		if _, err := c.Run(ctx, "/bin/sleep", "600"); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want context.Canceled", err)
		}
	})
	c.Close()
	within(t, "Serve, which waits for its operations", func() { <-served })
}

func TestProbeViaLeavesNoRoute(t *testing.T) {
	c, _, _ := session(t)
	silentLink(t, "via", "198.18.31.1/24")
	to := netip.MustParseAddrPort("198.18.200.7:80")
	got := c.ProbeVia(testContext(t), netip.MustParseAddr("198.18.31.2"), to, 200*time.Millisecond)
	if got.Outcome != netlab.OutcomeTimeout {
		t.Errorf("by way of nobody: %v, want a timeout (unreachable would mean that no route was there)", got)
	}
	if hasRoute(t, "198.18.200.7/32") {
		t.Error("a route stayed")
	}
	ctx, cancel := context.WithCancel(testContext(t))
	time.AfterFunc(100*time.Millisecond, cancel)
	c.ProbeVia(ctx, netip.MustParseAddr("198.18.31.2"), to, patience)
	within(t, "the route's removal after a cancel", func() {
		for hasRoute(t, "198.18.200.7/32") {
		}
	})
}

func TestRunSaysWhatFailed(t *testing.T) {
	c, _, _ := session(t)
	out, err := c.Run(testContext(t), "/bin/echo", "hello")
	if string(out) != "hello\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	_, err = c.Run(testContext(t), "/bin/sh", "-c", "echo $((40+2)) >&2; exit 3")
	if err == nil || !strings.Contains(err.Error(), "/bin/sh -c") || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "\n42") {
		t.Errorf("error %v: want argv, status and output", err)
	}
}

func TestCloseUnblocksRead(t *testing.T) {
	c, _, _ := session(t)
	held := make(chan struct{})
	defer close(held)
	addr := listen(t, func(c *net.TCPConn) { <-held; c.Close() }) // ignores the half-close
	conn, err := c.Dial(testContext(t), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() { conn.Read(make([]byte, 1)); close(read) }()
	conn.Close()
	within(t, "a read of a closed connection", func() { <-read })
}

func TestTwoPrefixesOnePort(t *testing.T) {
	c, _, _ := session(t)
	ctx := testContext(t)
	one, two := netip.MustParsePrefix("198.18.40.0/24"), netip.MustParsePrefix("198.18.41.0/24")
	for _, p := range []netip.Prefix{one, two} {
		if _, err := c.Arrivals(ctx, p, 9002); err != nil {
			t.Fatal(err)
		}
	}
	counted, err := countRules(t)
	if err != nil || counted != 2 {
		t.Errorf("%d counting tables for two prefixes (%v)", counted, err)
	}
}

func TestCancelEndsTheDialInside(t *testing.T) {
	c, _, served := session(t)
	silentLink(t, "silent2", "198.18.32.1/24")
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err := c.Dial(ctx, "tcp", "198.18.32.9:80")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial: %v, want context.DeadlineExceeded", err)
	}
	// is the inner connect still going? look for SYN_SENT
	n := synSent(t)
	for end := time.Now().Add(patience); n > 0 && time.Now().Before(end); n = synSent(t) {
	}
	if n > 0 {
		t.Errorf("%d connects still under way inside after the cancel", n)
	}
	c.Close()
	<-served
}
