package netlab

import (
	"errors"
	"fmt"
	"net"

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
