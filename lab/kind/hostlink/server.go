package hostlink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/vishvananda/netlink"

	"keylab.dev/keylab/netlab"
)

// Serve answers at the inner end, in the network namespace of this process, until the peer has gone or ctx ends.
func Serve(ctx context.Context, rw io.ReadWriteCloser) error {
	session, err := yamux.Server(rw, settings())
	if err != nil {
		return fmt.Errorf("hostlink: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { session.Close() })
	defer stop()
	s := &server{ns: netlab.Current(), arrivals: map[string]*netlab.ConnCounter{}}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var streams sync.WaitGroup
	defer streams.Wait()
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			cancel()
			if errors.Is(err, io.EOF) || errors.Is(err, yamux.ErrSessionShutdown) || session.IsClosed() {
				return nil
			}
			return fmt.Errorf("hostlink: %w", err)
		}
		streams.Go(func() {
			defer stream.Close()
			s.serve(ctx, stream)
		})
	}
}

type server struct {
	ns       *netlab.Namespace
	mu       sync.Mutex
	arrivals map[string]*netlab.ConnCounter
	routes   sync.Mutex // one temporary route at a time

	listeners listeners
}

func (s *server) serve(ctx context.Context, stream *yamux.Stream) {
	var r request
	if err := receive(stream, &r); err != nil {
		return
	}
	switch r.Op {
	case opDial:
		s.dial(ctx, stream, r)
		return
	case opListen:
		s.listen(ctx, stream, r)
		return
	case opAccept:
		s.accept(ctx, stream, r)
		return
	case opListenPacket:
		s.listenPacket(ctx, stream, r)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // the client sends nothing more: what is read is its hanging up
		_, _ = stream.Read(make([]byte, 1))
		cancel()
	}()
	a := s.answer(ctx, r)
	_ = send(stream, a) // the client may have gone
}

// dial connects, and then copies both ways.
func (s *server) dial(ctx context.Context, stream *yamux.Stream, r request) {
	conn, err := s.connectUntilHungUp(ctx, stream, r)
	var a answer
	a.fail(err)
	if send(stream, a) != nil || err != nil {
		if conn != nil {
			conn.Close()
		}
		return
	}
	if isUDP(r.Network) {
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		defer stop()
		relayPackets(conn, stream)
		return
	}
	relay(ctx, conn, stream)
}

// relay copies both ways between a connection and the client; the end of one direction is passed on as such.
func relay(ctx context.Context, conn net.Conn, stream *yamux.Stream) {
	defer conn.Close()
	// When the session ends the connection does too, even if its peer takes no notice of a half-close.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(conn, stream)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	_, _ = io.Copy(stream, conn)
	stream.Close()
	<-done
}

// connectUntilHungUp connects, and gives up when the client closes the stream: it sends nothing before it has its answer.
func (s *server) connectUntilHungUp(ctx context.Context, stream *yamux.Stream, r request) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, yamux.ErrTimeout) {
			cancel()
		}
	}()
	conn, err := s.connect(ctx, r)
	_ = stream.SetReadDeadline(time.Unix(1, 0))
	<-watched
	_ = stream.SetReadDeadline(time.Time{})
	return conn, err
}

func (s *server) connect(ctx context.Context, r request) (net.Conn, error) {
	if r.Network == "unix" {
		return (&net.Dialer{}).DialContext(ctx, "unix", r.Address)
	}
	return s.ns.DialContext(ctx, r.Network, r.Address)
}

func (s *server) answer(ctx context.Context, r request) (a answer) {
	switch r.Op {
	case opProbe:
		a.probe(s.probe(ctx, r))
	case opProbeVia:
		s.probeVia(ctx, r, &a)
	case opARP:
		mac, err := s.arp(ctx, r)
		a.MAC = mac
		a.fail(err)
	case opResolve:
		addrs, err := s.resolve(ctx, r)
		a.Addresses = addrs
		a.fail(err)
	case opInspect:
		host, err := netlab.InspectNamespace(s.ns)
		a.Host = &host
		a.fail(err)
	case opArrivals:
		n, err := s.countArrivals(r)
		a.Count = n
		a.fail(err)
	case opRun:
		out, err := runProgram(ctx, r.Argv)
		a.Output = out
		a.fail(err)
	default:
		a.Error = fmt.Sprintf("unknown operation %q", r.Op)
	}
	return a
}

func (a *answer) probe(p netlab.ProbeResult) {
	a.Outcome, a.Elapsed = p.Outcome, p.Elapsed
	a.fail(p.Err)
}

func (s *server) probe(ctx context.Context, r request) netlab.ProbeResult {
	switch r.Network {
	case "tcp":
		return netlab.ProbeTCP(ctx, s.ns, r.To, r.Timeout)
	case "udp":
		return netlab.ProbeUDP(ctx, s.ns, r.To, r.Payload, r.Timeout)
	case "icmp":
		return netlab.ProbeICMP(ctx, s.ns, r.To.Addr(), r.Timeout)
	}
	return netlab.ProbeResult{Outcome: netlab.OutcomeFailed, Err: fmt.Errorf("no probe for protocol %q", r.Network)}
}

// probeVia probes with a route of its own to the address.
func (s *server) probeVia(ctx context.Context, r request, a *answer) {
	s.routes.Lock()
	defer s.routes.Unlock()
	host := r.To.Addr().AsSlice()
	route := &netlink.Route{Dst: &net.IPNet{IP: host, Mask: net.CIDRMask(8*len(host), 8*len(host))}, Gw: r.Via.AsSlice()}
	if err := netlink.RouteReplace(route); err != nil {
		a.Outcome = netlab.OutcomeFailed
		a.fail(fmt.Errorf("route %s by way of %s: %w", r.To.Addr(), r.Via, err))
		return
	}
	a.probe(netlab.ProbeTCP(ctx, s.ns, r.To, r.Timeout))
	if err := netlink.RouteDel(route); err != nil {
		a.Outcome = netlab.OutcomeFailed
		a.fail(fmt.Errorf("remove the route to %s: %w", r.To.Addr(), err))
	}
}

func (s *server) arp(ctx context.Context, r request) (net.HardwareAddr, error) {
	link := r.Link
	if link == "" {
		routes, err := netlink.RouteGet(r.To.Addr().AsSlice())
		if err != nil || len(routes) == 0 {
			return nil, fmt.Errorf("find the link towards %s: %w", r.To.Addr(), err)
		}
		l, err := netlink.LinkByIndex(routes[0].LinkIndex)
		if err != nil {
			return nil, fmt.Errorf("find the link towards %s: %w", r.To.Addr(), err)
		}
		link = l.Attrs().Name
	}
	mac, err := netlab.ProbeARP(ctx, s.ns, link, r.To.Addr(), r.Timeout)
	if errors.Is(err, netlab.ErrNoARPReply) {
		return nil, nil // that is an answer too
	}
	return mac, err
}

func (s *server) resolve(ctx context.Context, r request) ([]netip.Addr, error) {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return s.ns.DialContext(ctx, network, r.To.String())
	}}
	return resolver.LookupNetIP(ctx, "ip4", r.Name+".")
}

// countArrivals reads the counter of connections forwarded to a prefix, and makes it the first time.
func (s *server) countArrivals(r request) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := fmt.Sprint(r.Prefix, r.To.Port())
	c := s.arrivals[key]
	if c == nil {
		var err error
		if c, err = netlab.CountForwarded(s.ns, r.Prefix, r.To.Port()); err != nil {
			return 0, err
		}
		s.arrivals[key] = c
	}
	return c.Read()
}

func runProgram(ctx context.Context, argv []string) ([]byte, error) {
	if len(argv) == 0 {
		return nil, errors.New("no program is named")
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(argv, " "), err, said.String(), out)
	}
	return out, err
}
