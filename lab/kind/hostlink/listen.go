package hostlink

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// Listen listens in the container for TCP connections, which come through the session. address is host:port, the host empty or literal.
func (c *Client) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	stream, a, err := c.ask(ctx, request{Op: opListen, Network: network, Address: address})
	if err != nil {
		return nil, fmt.Errorf("listen on %s in the container: %w", address, err)
	}
	return &listener{client: c, stream: stream, id: a.Count, local: a.Address}, nil
}

// ListenPacket opens a UDP socket in the container. address is host:port, the host empty or literal.
func (c *Client) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	stream, a, err := c.ask(ctx, request{Op: opListenPacket, Network: network, Address: address})
	if err != nil {
		return nil, fmt.Errorf("listen on %s in the container: %w", address, err)
	}
	return &peersConn{packetConn: newPacketConn(stream), local: a.Address}, nil
}

// ask makes a request whose stream goes on after the answer.
func (c *Client) ask(ctx context.Context, r request) (*yamux.Stream, answer, error) {
	var a answer
	stream, err := c.open(r)
	if err != nil {
		return nil, a, err
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.SetReadDeadline(time.Unix(1, 0)) })
	err = receive(stream, &a)
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = a.err()
	}
	if err != nil {
		stream.Close()
		return nil, a, err
	}
	return stream, a, nil
}

// listener is one of the container's.
type listener struct {
	client *Client
	stream *yamux.Stream // for as long as it is open the container listens
	id     uint64
	local  netip.AddrPort
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	stream, a, err := l.client.ask(context.Background(), request{Op: opAccept, Name: strconv.FormatUint(l.id, 10)})
	if err != nil {
		return nil, err
	}
	return &accepted{conn{Stream: stream}, a.Address, l.local}, nil
}

// Close implements net.Listener.
func (l *listener) Close() error { return l.stream.Close() }

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.local) }

// accepted is a connection that somebody made to the container.
type accepted struct {
	conn
	remote, local netip.AddrPort
}

func (c *accepted) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }
func (c *accepted) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }

// listeners are those that the inner end has open.
type listeners struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]net.Listener
}

func (l *listeners) add(x net.Listener) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open = map[uint64]net.Listener{}
	}
	l.last++
	l.open[l.last] = x
	return l.last
}

func (l *listeners) get(id string) (net.Listener, error) {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%q is no listener", id)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	x, ok := l.open[n]
	if !ok {
		return nil, net.ErrClosed
	}
	return x, nil
}

func (l *listeners) remove(id uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, id)
}

// hungUp is done when the client closes the stream, on which it sends nothing, or ctx ends.
func hungUp(ctx context.Context, stream *yamux.Stream) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		_, _ = stream.Read(make([]byte, 1))
		cancel()
	}()
	return ctx, cancel
}

func (s *server) listen(ctx context.Context, stream *yamux.Stream, r request) {
	l, err := s.ns.Listen(r.Network, r.Address)
	var a answer
	a.fail(err)
	if err != nil {
		_ = send(stream, a) // the client may have gone
		return
	}
	defer l.Close()
	a.Count = s.listeners.add(l)
	defer s.listeners.remove(a.Count)
	a.Address = addrPort(l.Addr())
	if send(stream, a) != nil {
		return
	}
	ctx, cancel := hungUp(ctx, stream)
	defer cancel()
	<-ctx.Done()
}

func (s *server) accept(ctx context.Context, stream *yamux.Stream, r request) {
	var a answer
	l, err := s.listeners.get(r.Name)
	var c net.Conn
	if err == nil {
		c, err = l.Accept()
	}
	a.fail(err)
	if err == nil {
		a.Address = addrPort(c.RemoteAddr())
	}
	if send(stream, a) != nil || err != nil {
		if c != nil {
			c.Close()
		}
		return
	}
	relay(ctx, c, stream)
}

func (s *server) listenPacket(ctx context.Context, stream *yamux.Stream, r request) {
	c, err := s.ns.ListenPacket(r.Network, r.Address)
	var a answer
	a.fail(err)
	if err == nil {
		a.Address = addrPort(c.LocalAddr())
	}
	if send(stream, a) != nil || err != nil {
		if c != nil {
			c.Close()
		}
		return
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	relayPeers(c, stream)
}

// addrPort is a socket's address.
func addrPort(a net.Addr) netip.AddrPort {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{} // it is none of a network
	}
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
