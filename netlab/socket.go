package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
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
	fail := func(err error) (net.Conn, error) {
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
		s, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		err = unix.Connect(s, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().Unmap().As4()})
		if err != nil && !errors.Is(err, unix.EINPROGRESS) {
			unix.Close(s)
			return os.NewSyscallError("connect", err)
		}
		fd = s
		return nil
	})
	if err != nil {
		return fail(err)
	}
	f := os.NewFile(uintptr(fd), addr) // non-blocking, so the runtime's poller takes it
	defer f.Close()                    // net.FileConn works on a copy
	if kind == unix.SOCK_STREAM {
		if err := awaitConnect(ctx, f); err != nil {
			return fail(err)
		}
	}
	c, err := net.FileConn(f)
	if err != nil {
		return fail(err)
	}
	return c, nil
}

// awaitConnect waits for a non-blocking connect(2) to end.
func awaitConnect(ctx context.Context, f *os.File) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := f.SetWriteDeadline(deadline); err != nil {
			return err
		}
	}
	stop := context.AfterFunc(ctx, func() { f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			result = os.NewSyscallError("getsockopt", err)
			return true
		case code != 0:
			result = os.NewSyscallError("connect", unix.Errno(code))
			return true
		}
		if _, err := unix.Getpeername(int(fd)); errors.Is(err, unix.ENOTCONN) {
			return false // still under way
		}
		return true
	})
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	return result
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
