package netlab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Impairment is what a bad cable does to the packets of a host, in each direction.
type Impairment struct {
	Delay  time.Duration // of each packet; a round trip takes twice as much longer
	Jitter time.Duration // by which the delay varies, more or less, evenly; the order of packets stays
	Loss   float64       // percent of packets, 0 to 100, chosen at random
}

// ImpairmentStats counts packets of both directions.
type ImpairmentStats struct {
	Passed, Lost uint64
}

// heldPackets is how many packets an impaired cable holds at most in each direction; further ones are lost, as in a full queue.
const heldPackets = 4096

// Impair puts the host's links on bad cables; it replaces an earlier impairment of the host, and the zero Impairment takes it away.
//
// The cable is a piece of this process: between the host's port and the bridge it carries every frame by packet sockets (packet(7)). The kernel's
// own netem would do, but is a module that many kernels lack.
func (l *Lab) Impair(host string, i Impairment) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hosts[host]
	if h == nil {
		return fmt.Errorf("impair %s: no such host", host)
	}
	if i.Delay < 0 || i.Jitter < 0 || !(i.Loss >= 0 && i.Loss <= 100) {
		return fmt.Errorf("impair %s: %+v: want no negative times, and a loss of 0 to 100 percent", host, i)
	}
	if err := h.repair(); err != nil {
		return fmt.Errorf("impair %s: %w", host, err)
	}
	if i == (Impairment{}) {
		return nil
	}
	if h.nat != nil {
		return fmt.Errorf("impair %s: it is behind a NAT router: take that away first", host)
	}
	for _, p := range h.ports {
		c, err := newCable(p, i)
		if err != nil {
			return errors.Join(fmt.Errorf("impair %s: port %s in the switch of network %s: %w", host, p.name, p.sw.network.Name, err), h.repair())
		}
		h.cables = append(h.cables, c)
	}
	return nil
}

// Impaired counts the packets of a host's impairment; ok is false when it has none.
func (l *Lab) Impaired(host string) (s ImpairmentStats, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hosts[host]
	if h == nil || len(h.cables) == 0 {
		return s, false
	}
	for _, c := range h.cables {
		s.Passed += c.passed.Load()
		s.Lost += c.lost.Load()
	}
	return s, true
}

// repair puts the host's ports back into their bridges.
func (h *labHost) repair() error {
	var errs []error
	for _, c := range h.cables {
		errs = append(errs, c.remove())
	}
	h.cables = nil
	return errors.Join(errs...)
}

// cable is a bad cable: frames between port, the switch's end of a host's link, and near, one end of a link whose other end is in the bridge.
type cable struct {
	port    port
	near    string
	sockets [2]*os.File
	ended   chan struct{}
	running sync.WaitGroup
	keep    func(frame []byte) bool // nil: it carries all frames

	passed, lost atomic.Uint64
}

func newCable(p port, i Impairment) (_ *cable, err error) {
	h := p.sw.h
	name := p.sw.nextName("bad")
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, p.sw.network.mtu()
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "b", PeerTxQLen: -1, PeerMTU: uint32(attrs.MTU)}); err != nil {
		return nil, fmt.Errorf("add a link: %w", err)
	}
	c := &cable{port: p, near: name, ended: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.remove())
		}
	}()
	for _, end := range []string{name, name + "b"} {
		link, err := h.LinkByName(end)
		if err == nil && end != name {
			err = h.LinkSetMasterByIndex(link, p.sw.bridge)
		}
		if err == nil {
			err = h.LinkSetUp(link)
		}
		if err != nil {
			return nil, fmt.Errorf("link %s: %w", end, err)
		}
	}
	where := p.end().where
	if err := awaitUp(context.Background(), []linkEnd{{h, name, where}, {h, name + "b", where}}); err != nil {
		return nil, err
	}
	for n, end := range []string{p.name, name} {
		if c.sockets[n], err = frameSocket(p.sw.ns, h, end); err != nil {
			return nil, fmt.Errorf("packet socket on %s: %w", end, err)
		}
	}
	link, err := h.LinkByName(p.name)
	if err == nil {
		err = h.LinkSetNoMaster(link)
	}
	if err != nil {
		return nil, fmt.Errorf("take the port out of the bridge: %w", err)
	}
	c.carry(c.sockets[0], c.sockets[1], i)
	c.carry(c.sockets[1], c.sockets[0], i)
	return c, nil
}

// frameSocket is a packet socket for whole frames of one link, each with the header that says what is left to do for it: checksums, and segmentation
// of what is longer than a frame (virtio_net_hdr; PACKET_VNET_HDR).
func frameSocket(ns *Namespace, h *netlink.Handle, link string) (*os.File, error) {
	l, err := h.LinkByName(link)
	if err != nil {
		return nil, err
	}
	index := l.Attrs().Index
	fd := -1
	err = ns.Do(func() error {
		s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		for _, option := range []int{unix.PACKET_VNET_HDR, unix.PACKET_IGNORE_OUTGOING} {
			if err := unix.SetsockoptInt(s, unix.SOL_PACKET, option, 1); err != nil {
				unix.Close(s)
				return os.NewSyscallError("setsockopt", err)
			}
		}
		promiscuous := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
		if err := unix.SetsockoptPacketMreq(s, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &promiscuous); err != nil {
			unix.Close(s)
			return os.NewSyscallError("setsockopt", err)
		}
		if err := unix.Bind(s, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: index}); err != nil {
			unix.Close(s)
			return os.NewSyscallError("bind", err)
		}
		fd = s
		return nil
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "frames:"+link), nil
}

// maxFrame is a frame of which the kernel has still to make many: 64 KiB, with its headers.
const maxFrame = 68 << 10

// held is a frame on its way.
type held struct {
	frame []byte
	due   time.Time
}

// carry brings frames from one end to the other until the sockets are closed.
func (c *cable) carry(from, to *os.File, i Impairment) {
	queue := make(chan held, heldPackets)
	c.running.Go(func() {
		defer close(queue)
		buf := make([]byte, maxFrame)
		var last time.Time
		for {
			n, err := from.Read(buf)
			if errors.Is(err, unix.ENETDOWN) {
				continue // the link was taken down, and may come up again
			}
			if err != nil {
				return
			}
			if c.keep != nil && !c.keep(buf[:n]) {
				continue
			}
			due := time.Now().Add(i.Delay)
			if i.Jitter > 0 {
				due = due.Add(rand.N(2*i.Jitter) - i.Jitter)
			}
			if due.Before(last) {
				due = last
			}
			if rand.Float64()*100 < i.Loss {
				c.lost.Add(1)
				continue
			}
			last = due
			select {
			case queue <- held{append([]byte(nil), buf[:n]...), due}:
			default:
				c.lost.Add(1)
			}
		}
	})
	c.running.Go(func() {
		for f := range queue {
			wait := time.NewTimer(time.Until(f.due))
			select {
			case <-wait.C:
			case <-c.ended:
				wait.Stop()
				return
			}
			if _, err := to.Write(f.frame); errors.Is(err, os.ErrClosed) {
				return
			} else if err != nil {
				c.lost.Add(1) // the link is down, or has no room
				continue
			}
			c.passed.Add(1)
		}
	})
}

// close ends it. What is on its way is lost.
func (c *cable) close() {
	close(c.ended)
	for _, s := range c.sockets {
		if s != nil {
			s.Close()
		}
	}
	c.running.Wait()
}

// remove puts the port into the bridge again. What is on its way is lost.
func (c *cable) remove() error {
	c.close()
	h := c.port.sw.h
	var errs []error
	if link, err := h.LinkByName(c.port.name); err != nil {
		errs = append(errs, err)
	} else if link.Attrs().MasterIndex == 0 {
		errs = append(errs, h.LinkSetMasterByIndex(link, c.port.sw.bridge))
	}
	if link, err := h.LinkByName(c.near); err != nil {
		errs = append(errs, err)
	} else {
		errs = append(errs, h.LinkDel(link)) // takes the other end with it
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take the bad cable of port %s away: %w", c.port.name, err)
	}
	return nil
}
