package hostlink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"keylab.dev/keylab/netlab"
)

// dialTimeout bounds a connection's making where the caller sets no earlier end.
const dialTimeout = 30 * time.Second

// Client is the outer end of a session. Its methods may be called at the same time.
type Client struct {
	session *yamux.Session
	stream  io.Closer
	once    sync.Once
}

// NewClient begins a session over the standard input and output of `keylab in-container link`.
func NewClient(rw io.ReadWriteCloser) (*Client, error) {
	session, err := yamux.Client(rw, settings())
	if err != nil {
		return nil, fmt.Errorf("hostlink: %w", err)
	}
	return &Client{session: session, stream: rw}, nil
}

// Close ends the session and all that goes on in it.
func (c *Client) Close() error {
	c.once.Do(func() {
		c.session.Close()
		c.stream.Close()
	})
	return nil
}

// Closed tells whether the session has ended, by either side.
func (c *Client) Closed() bool { return c.session.IsClosed() }

// open sends a request.
func (c *Client) open(r request) (*yamux.Stream, error) {
	stream, err := c.session.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("reach into the container: %w", err)
	}
	if err := send(stream, r); err != nil {
		stream.Close()
		return nil, fmt.Errorf("reach into the container: %w", err)
	}
	return stream, nil
}

// call sends a request and waits for its answer.
func (c *Client) call(ctx context.Context, r request) (a answer, err error) {
	stream, err := c.open(r)
	if err != nil {
		return a, err
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { stream.Close(); _ = stream.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := receive(stream, &a); err != nil {
		if ctx.Err() != nil {
			return a, context.Cause(ctx)
		}
		return a, fmt.Errorf("%s in the container: no answer: %w", r.Op, err)
	}
	return a, nil
}

// Dial connects from the container: network is "tcp" or "udp", with a literal address, or "unix". A UDP connection reads and writes packets.
func (c *Client) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	stream, _, err := c.ask(ctx, request{Op: opDial, Network: network, Address: address})
	if err != nil {
		return nil, fmt.Errorf("connect to %s from the container: %w", address, err)
	}
	if isUDP(network) {
		return newPacketConn(stream), nil
	}
	return &conn{Stream: stream}, nil
}

func isUDP(network string) bool { return strings.HasPrefix(network, "udp") }

// conn is a connection through the session. Closing the write side of a yamux stream is closing it: the read side stays open until the
// other end closes too.
type conn struct {
	*yamux.Stream
}

// Read and Write say that a deadline is over as net.Conn wants it.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Stream.Read(b)
	return n, deadlineOver(err)
}

func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Stream.Write(b)
	return n, deadlineOver(err)
}

func deadlineOver(err error) error {
	if errors.Is(err, yamux.ErrTimeout) {
		return os.ErrDeadlineExceeded
	}
	return err
}

// CloseWrite ends the direction to the peer.
func (c *conn) CloseWrite() error { return c.Stream.Close() }

// Close ends the connection, and reads that wait for the peer, which closing a yamux stream alone does not.
func (c *conn) Close() error {
	err := c.Stream.Close()
	_ = c.Stream.SetReadDeadline(time.Unix(1, 0))
	return err
}

func (c *Client) probe(ctx context.Context, r request) netlab.ProbeResult {
	a, err := c.call(ctx, r)
	if err != nil {
		return netlab.ProbeResult{Outcome: netlab.OutcomeFailed, Err: err}
	}
	if a.Outcome == "" {
		a.Outcome = netlab.OutcomeFailed
	}
	return netlab.ProbeResult{Outcome: a.Outcome, Err: a.err(), Elapsed: a.Elapsed}
}

// Probe tries to reach an address by "tcp", "udp" (payload is what it sends) or "icmp".
func (c *Client) Probe(ctx context.Context, protocol string, to netip.AddrPort, payload []byte, timeout time.Duration) netlab.ProbeResult {
	return c.probe(ctx, request{Op: opProbe, Network: protocol, To: to, Payload: payload, Timeout: timeout})
}

// ProbeVia tries to reach an address by TCP through another gateway than the container's own. It needs NET_ADMIN there.
func (c *Client) ProbeVia(ctx context.Context, via netip.Addr, to netip.AddrPort, timeout time.Duration) netlab.ProbeResult {
	return c.probe(ctx, request{Op: opProbeVia, Via: via, To: to, Timeout: timeout})
}

// ARP asks on a link, or on that which leads to the target, who has an address (netlab.ProbeARP): nil when nobody
// answers in time.
func (c *Client) ARP(ctx context.Context, link string, target netip.Addr, timeout time.Duration) (net.HardwareAddr, error) {
	a, err := c.call(ctx, request{Op: opARP, Link: link, To: netip.AddrPortFrom(target, 0), Timeout: timeout})
	if err != nil {
		return nil, err
	}
	return a.MAC, a.err()
}

// Resolve asks a DNS server for the IPv4 addresses of a name.
func (c *Client) Resolve(ctx context.Context, server netip.AddrPort, name string) ([]netip.Addr, error) {
	a, err := c.call(ctx, request{Op: opResolve, To: server, Name: name})
	if err != nil {
		return nil, err
	}
	return a.Addresses, a.err()
}

// Inspect reads links, addresses and routes of the container.
func (c *Client) Inspect(ctx context.Context) (netlab.HostState, error) {
	a, err := c.call(ctx, request{Op: opInspect})
	if err != nil {
		return netlab.HostState{}, err
	}
	if a.Host == nil {
		return netlab.HostState{}, a.err()
	}
	return *a.Host, a.err()
}

// Arrivals is how many new TCP connections the container's kernel has forwarded to a prefix and port since the first call of this session.
func (c *Client) Arrivals(ctx context.Context, to netip.Prefix, port uint16) (uint64, error) {
	a, err := c.call(ctx, request{Op: opArrivals, Prefix: to, To: netip.AddrPortFrom(netip.IPv4Unspecified(), port)})
	if err != nil {
		return 0, err
	}
	return a.Count, a.err()
}

// Run runs a program in the container and returns what it printed.
func (c *Client) Run(ctx context.Context, argv ...string) ([]byte, error) {
	a, err := c.call(ctx, request{Op: opRun, Argv: argv})
	if err != nil {
		return nil, err
	}
	return a.Output, a.err()
}
