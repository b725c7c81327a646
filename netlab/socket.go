package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listen announces on addr ("198.18.20.11:9002", ":53", "127.0.0.1:0") inside
// the namespace. network is one of tcp, tcp4 or a unix one; addr must hold an
// IP literal or no host, since names cannot be looked up here.
func (n *Namespace) Listen(network, addr string) (net.Listener, error) {
	if err := checkLiteral(network, addr); err != nil {
		return nil, fmt.Errorf("namespace %s: listen: %w", n.name, err)
	}
	var l net.Listener
	err := n.Do(func() error {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false) // its extra options would only confuse captures and counters
		var err error
		l, err = lc.Listen(context.Background(), network, addr)
		return err
	})
	return l, err
}

// ListenPacket is Listen for packet sockets: udp, udp4, ip4:icmp, unixgram.
func (n *Namespace) ListenPacket(network, addr string) (net.PacketConn, error) {
	if err := checkLiteral(network, addr); err != nil {
		return nil, fmt.Errorf("namespace %s: listen: %w", n.name, err)
	}
	var c net.PacketConn
	err := n.Do(func() error {
		var err error
		c, err = net.ListenPacket(network, addr)
		return err
	})
	return c, err
}

// DialContext connects to addr from inside the namespace; network is tcp,
// tcp4, udp or udp4, and addr an IPv4 literal with a port. Only the making of
// the socket needs a thread inside the namespace: waiting for the peer does
// not, so that thousands of slow connections cost no threads. The signature
// fits http.Transport.DialContext and grpc dialers.
func (n *Namespace) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	s, err := n.socket(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	defer s.Close() // net.FileConn works on a copy
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	c, err := net.FileConn(s.File)
	if err != nil {
		return nil, s.failed(err)
	}
	return c, nil
}

// socket is one inside a namespace, which has sent nothing yet.
type socket struct {
	*os.File
	to      netip.AddrPort
	network string
	from    string // the namespace, for errors
}

func (s *socket) failed(err error) error {
	return &net.OpError{Op: "dial", Net: s.network, Err: fmt.Errorf("from %s to %s: %w", s.from, s.to, err)}
}

// socket makes one that [socket.connect] connects; the caller closes it.
func (n *Namespace) socket(ctx context.Context, network, addr string) (*socket, error) {
	fail := func(err error) (*socket, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("from %s to %s: %w", n.name, addr, err)}
	}
	to, err := netip.ParseAddrPort(addr)
	if err != nil || !to.Addr().Unmap().Is4() {
		return fail(errors.Join(err, errors.New("want an IPv4 literal and a port")))
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	kind := unix.SOCK_STREAM
	switch network {
	case "tcp", "tcp4":
	case "udp", "udp4":
		kind = unix.SOCK_DGRAM
	default:
		return fail(net.UnknownNetworkError(network))
	}
	fd := -1
	err = n.Do(func() error {
		var err error
		fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return fail(err)
	}
	// Non-blocking, so the runtime's poller takes it.
	return &socket{File: os.NewFile(uintptr(fd), addr), to: to, network: network, from: n.name}, nil
}

// connect connects a socket, which for UDP sends nothing.
func (s *socket) connect(ctx context.Context) error {
	raw, err := s.SyscallConn()
	if err != nil {
		return s.failed(err)
	}
	var started error
	err = raw.Control(func(fd uintptr) {
		started = unix.Connect(int(fd), &unix.SockaddrInet4{Port: int(s.to.Port()), Addr: s.to.Addr().Unmap().As4()})
	})
	if err != nil {
		return s.failed(err)
	}
	switch {
	case errors.Is(started, unix.EINPROGRESS):
		started = awaitConnect(ctx, s.File, raw)
	case started != nil:
		started = os.NewSyscallError("connect", started)
	}
	if started != nil {
		return s.failed(started)
	}
	return nil
}

// awaitConnect waits for a non-blocking connect(2) to end.
func awaitConnect(ctx context.Context, f *os.File, raw syscall.RawConn) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := f.SetWriteDeadline(deadline); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	var result error
	var done bool
	look := func(fd uintptr) bool {
		done, result = connected(int(fd))
		return done
	}
	err := raw.Write(look)
	if err == nil {
		return result
	}
	// On a machine that stood still, the deadline may be seen before the answer that had come in time.
	if errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(ctx.Err(), context.Canceled) {
		if raw.Control(func(fd uintptr) { look(fd) }) == nil && done {
			return result
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// connected tells whether a connect(2) has ended, and how.
func connected(fd int) (done bool, err error) {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	switch {
	case err != nil:
		return true, os.NewSyscallError("getsockopt", err)
	case code != 0:
		return true, os.NewSyscallError("connect", unix.Errno(code))
	}
	_, err = unix.Getpeername(fd)
	return !errors.Is(err, unix.ENOTCONN), nil
}

// checkLiteral refuses host names, which the resolver would look up in a
// goroutine outside the namespace.
func checkLiteral(network, addr string) error {
	if strings.HasPrefix(network, "unix") {
		return nil
	}
	host := addr
	if !strings.HasPrefix(network, "ip") {
		h, _, err := net.SplitHostPort(addr)
		if err != nil {
			return err
		}
		host = h
	}
	if host == "" {
		return nil
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return fmt.Errorf("%s: want an IP literal: %w", addr, err)
	}
	return nil
}
