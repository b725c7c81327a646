package netlab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// arpLen is the length of an ARP packet for IPv4 over Ethernet (RFC 826).
const arpLen = 28

// ErrNoARPReply is returned when nobody on a link answered for an address.
var ErrNoARPReply = errors.New("no ARP reply")

// ProbeARP asks on one link of the namespace who has the IPv4 address, and
// returns the hardware address that answers first. It is an ARP probe without a
// sender address (RFC 5227, section 2.1.1), so that it leaves no trace in any
// neighbour cache. If nobody answers in time, the error is ErrNoARPReply. Only
// hosts on the same layer-2 segment can answer, whatever routes there are.
func ProbeARP(ctx context.Context, ns *Namespace, link string, target netip.Addr, timeout time.Duration) (net.HardwareAddr, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	fail := func(err error) (net.HardwareAddr, error) {
		return nil, fmt.Errorf("ARP for %v on %s of %s: %w", target, link, ns.Name(), err)
	}
	if !target.Is4() {
		return fail(errors.New("want an IPv4 address"))
	}
	socket, nic, err := arpSocket(ns, link)
	if err != nil {
		return fail(err)
	}
	defer socket.Close()
	defer closeDeadline(ctx, socket)()
	if err := sendARP(socket, nic, target); err != nil {
		return fail(err)
	}
	buf := make([]byte, 256)
	for {
		n, err := socket.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if errors.Is(ctx.Err(), context.Canceled) {
				return fail(ctx.Err())
			}
			return fail(fmt.Errorf("%w within %v", ErrNoARPReply, timeout))
		}
		if err != nil {
			return fail(err)
		}
		if mac, ok := arpReply(buf[:n], target); ok {
			return mac, nil
		}
	}
}

// arpSocket opens a packet socket (packet(7)) for ARP on one link.
func arpSocket(ns *Namespace, link string) (*os.File, *net.Interface, error) {
	var nic *net.Interface
	fd := -1
	err := ns.Do(func() error {
		var err error
		if nic, err = net.InterfaceByName(link); err != nil {
			return err
		}
		// SOCK_DGRAM: the kernel writes and takes off the Ethernet header.
		s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		if err := unix.Bind(s, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ARP), Ifindex: nic.Index}); err != nil {
			unix.Close(s)
			return os.NewSyscallError("bind", err)
		}
		fd = s
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fd), "arp:"+link), nic, nil
}

func sendARP(socket *os.File, nic *net.Interface, target netip.Addr) error {
	packet := make([]byte, 0, arpLen)
	packet = append(packet, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, their address lengths, request
	packet = append(packet, nic.HardwareAddr...)
	packet = append(packet, 0, 0, 0, 0) // no sender address: a probe
	packet = append(packet, 0, 0, 0, 0, 0, 0)
	packet = append(packet, target.AsSlice()...)
	to := &unix.SockaddrLinklayer{
		Protocol: networkOrder(unix.ETH_P_ARP), Ifindex: nic.Index,
		Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), packet, 0, to)
		return !errors.Is(sent, unix.EAGAIN)
	})
	if errors.Is(sent, unix.ENOBUFS) { // so the kernel says that the link's queue, such as one that drops all, did not take the packet (packet(7))
		return errors.New("the question does not leave: the link drops what is sent on it")
	}
	return errors.Join(err, os.NewSyscallError("sendto", sent))
}

// arpReply returns who answers for the target, if the packet is such an answer.
func arpReply(p []byte, target netip.Addr) (net.HardwareAddr, bool) {
	const reply = 2
	if len(p) < arpLen || binary.BigEndian.Uint16(p[6:]) != reply {
		return nil, false
	}
	sender, _ := netip.AddrFromSlice(p[14:18])
	return net.HardwareAddr(append([]byte(nil), p[8:14]...)), sender == target
}

// networkOrder swaps a 16-bit number as the packet socket's addresses want it.
func networkOrder(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}
