package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel keeps one neighbour table for all namespaces together, of 1024
// entries by default (net.ipv4.neigh.default.gc_thresh3), which only the
// machine's root can change. Hundreds of hosts that talk to the same few overrun
// it, and flood every port of the switch with ARP requests on the way. Permanent
// entries are not counted against the limit and need no requests. So every host
// and every hub of its networks get permanent entries for each other.

// introduce makes or removes the permanent neighbour entries between two hosts
// for the networks that they share.
func introduce(a, b *labHost, change func(h *netlink.Handle, n *netlink.Neigh) error) error {
	if a == b || !(a.spec.hub() || b.spec.hub()) {
		return nil
	}
	for _, fa := range a.spec.Interfaces {
		for _, fb := range b.spec.Interfaces {
			if fa.Network != fb.Network {
				continue
			}
			if err := introduceOneWay(a, fa, fb, change); err != nil {
				return err
			}
			if err := introduceOneWay(b, fb, fa, change); err != nil {
				return err
			}
		}
	}
	return nil
}

// introduceOneWay changes the host's entries for the addresses of a peer's interface.
func introduceOneWay(h *labHost, own, peer Interface, change func(*netlink.Handle, *netlink.Neigh) error) error {
	link, ok := h.links[own.Name]
	if !ok {
		return nil
	}
	for _, addr := range peer.Addresses {
		n := &netlink.Neigh{
			LinkIndex: link, Family: unix.AF_INET, State: netlink.NUD_PERMANENT,
			IP: net.IP(addr.AsSlice()), HardwareAddr: peer.MAC,
		}
		if err := change(h.h, n); err != nil {
			return fmt.Errorf("host %s: neighbour %v on %s: %w", h.spec.Name, addr, own.Name, err)
		}
	}
	return nil
}

func setNeighbour(h *netlink.Handle, n *netlink.Neigh) error { return h.NeighSet(n) }

func deleteNeighbour(h *netlink.Handle, n *netlink.Neigh) error {
	if err := h.NeighDel(n); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENXIO) {
		return err
	}
	return nil
}

// hub says whether the host gets permanent neighbour entries with all others.
func (h Host) hub() bool { return h.Hub || h.Forward }

// MoveAddress gives a host another address in place of one that it has, as an administrator would who renumbers it. Other hosts that hold fixed
// neighbour entries for it get new ones.
func (l *Lab) MoveAddress(host string, from, to netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	fail := func(err error) error { return fmt.Errorf("move %s from %v to %v: %w", host, from, to, err) }
	h := l.hosts[host]
	if h == nil {
		return fail(errors.New("no such host"))
	}
	if h.nat != nil {
		return fail(errors.New("it is behind a NAT router: take that away first"))
	}
	for _, f := range h.spec.Interfaces {
		i := slices.Index(f.Addresses, from)
		if i < 0 {
			continue
		}
		prefix := l.networks[f.Network].Prefix
		if !prefix.Contains(to) {
			return fail(fmt.Errorf("network %s is %v", f.Network, prefix))
		}
		// First away, then there: the kernel removes a second address of the same network with the first.
		link, err := h.h.LinkByName(f.Name)
		if err == nil {
			err = h.h.AddrDel(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(from, prefix.Bits()))})
		}
		if err == nil {
			err = h.h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(to, prefix.Bits()))})
		}
		if err == nil {
			err = h.restoreRoutes()
		}
		if err == nil {
			err = l.forget(h)
		}
		if err != nil {
			return fail(err)
		}
		f.Addresses[i] = to // the slice is the host's own
		for _, o := range l.hosts {
			if err := introduce(h, o, setNeighbour); err != nil {
				return fail(err)
			}
		}
		return nil
	}
	return fail(errors.New("the host does not have that address"))
}

// restoreRoutes sets the host's routes again: those that went out from an address which is gone went with it.
func (h *labHost) restoreRoutes() error {
	for _, r := range h.spec.Routes {
		if err := h.h.RouteReplace(&netlink.Route{Dst: ipNet(r.To), Gw: r.Via.AsSlice()}); err != nil {
			return fmt.Errorf("route to %v by %v: %w", r.To, r.Via, err)
		}
	}
	return nil
}
