package netlab

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// carrierTimeout is how long a link may take to come up; the kernel does it in
// the background, in milliseconds on an idle machine.
const carrierTimeout = 10 * time.Second

// Partition pulls a host's cables: its links lose their carrier at the switch,
// while its addresses and routes stay, as with a real cable. Heal puts them back.
func (l *Lab) Partition(host string) error { return l.setPorts(host, false) }

// Heal undoes Partition and returns when the links carry packets again. It
// does no harm to a host that is well.
func (l *Lab) Heal(host string) error { return l.setPorts(host, true) }

func (l *Lab) setPorts(name string, up bool) error {
	verb := map[bool]string{true: "heal", false: "partition"}[up]
	l.mu.Lock()
	h := l.hosts[name]
	l.mu.Unlock()
	if h == nil {
		return fmt.Errorf("%s %s: no such host", verb, name)
	}
	for _, p := range h.ports {
		link, err := p.sw.h.LinkByName(p.name)
		if err == nil && up {
			err = p.sw.h.LinkSetUp(link)
		} else if err == nil {
			err = p.sw.h.LinkSetDown(link)
		}
		if err != nil {
			return fmt.Errorf("%s %s: port %s in the switch of network %s: %w", verb, name, p.name, p.sw.network.Name, err)
		}
	}
	if up {
		if err := awaitUp(context.Background(), h.ends()); err != nil {
			return fmt.Errorf("%s %s: %w", verb, name, err)
		}
	}
	return nil
}

// Bridge joins two networks' switches with a cable, which makes one flat
// segment of them past the router: a fault that a proof of separation must
// find. undo takes the cable out; calling it twice returns nil.
func (l *Lab) Bridge(netA, netB string) (undo func() error, err error) {
	l.mu.Lock()
	a, b := l.switches[netA], l.switches[netB]
	l.mu.Unlock()
	if a == nil || b == nil || a == b {
		return nil, fmt.Errorf("bridge networks %q and %q: want the names of two networks of this lab", netA, netB)
	}
	fail := func(err error) error { return fmt.Errorf("bridge networks %s and %s: %w", netA, netB, err) }
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a.nextName("trunk")
	attrs.MTU = min(a.network.mtu(), b.network.mtu())
	attrs.MasterIndex = a.bridge
	ends := []port{{a, attrs.Name}, {b, b.nextName("trunk")}}
	cable := &netlink.Veth{LinkAttrs: attrs, PeerName: ends[1].name, PeerTxQLen: -1, PeerMTU: uint32(attrs.MTU)}
	err = b.ns.withFD(func(fd int) error {
		cable.PeerNamespace = netlink.NsFd(fd)
		return a.h.LinkAdd(cable)
	})
	if err != nil {
		return nil, fail(err)
	}
	undo = sync.OnceValue(func() error {
		err := a.h.LinkDel(cable) // takes the other end with it
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil
		}
		return err
	})
	far, err := b.h.LinkByName(ends[1].name)
	if err == nil {
		err = b.h.LinkSetMasterByIndex(far, b.bridge)
	}
	if err == nil {
		err = b.h.LinkSetUp(far)
	}
	if err == nil {
		err = a.h.LinkSetUp(cable)
	}
	if err == nil {
		err = awaitUp(context.Background(), []linkEnd{ends[0].end(), ends[1].end()})
	}
	if err != nil {
		return nil, errors.Join(fail(err), undo())
	}
	return undo, nil
}

// linkEnd is one link in one namespace.
type linkEnd struct {
	h     *netlink.Handle
	name  string
	where string // for errors
}

// awaitUp waits until the kernel has brought all links up: until then a bridge
// forwards nothing to them, and a connection would lose its first packet.
//
// The kernel does this in the background, at most once a second when there are
// many links (linkwatch). To ask for one link by its name makes it do so at once
// (since Linux 6.8), so this asks for each instead of listing all.
func awaitUp(ctx context.Context, ends []linkEnd) error {
	ctx, cancel := context.WithTimeout(ctx, carrierTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var waiting []linkEnd
		for _, e := range ends {
			link, err := e.h.LinkByName(e.name)
			if err != nil {
				return fmt.Errorf("%s: link %s: %w", e.where, e.name, err)
			}
			if link.Attrs().OperState != netlink.OperUp {
				waiting = append(waiting, e)
			}
		}
		if len(waiting) == 0 {
			return nil
		}
		ends = waiting
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: wait for link %s (and %d others) to come up: %w",
				ends[0].where, ends[0].name, len(ends)-1, context.Cause(ctx))
		}
	}
}
