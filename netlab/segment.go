package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Segment says whether two hosts share a layer-2 segment, and how that is known.
type Segment struct {
	Shared   bool
	Evidence []string // one sentence for each thing looked at, sorted
}

// SharedSegment finds out whether frames of host a can reach host b without a
// router, by looking at three things: whether they have links in the same
// bridge; whether a bridge of one has learnt the other's hardware address; and
// whether, in either direction, an ARP request on any link is answered by the
// other. Any of these makes Shared. timeout is how long to wait for each ARP
// answer; all are asked at once. A host shares a segment with itself.
func (l *Lab) SharedSegment(ctx context.Context, a, b string, timeout time.Duration) (Segment, error) {
	l.mu.Lock()
	hostA, hostB := l.hosts[a], l.hosts[b]
	l.mu.Unlock()
	for name, h := range map[string]*labHost{a: hostA, b: hostB} {
		if h == nil {
			return Segment{}, fmt.Errorf("shared segment of %s and %s: no host %s", a, b, name)
		}
	}
	var mu sync.Mutex
	var seg Segment
	found := func(shared bool, format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		seg.Shared = seg.Shared || shared
		seg.Evidence = append(seg.Evidence, fmt.Sprintf(format, args...))
	}
	if err := compareBridges(hostA, hostB, found); err != nil {
		return Segment{}, fmt.Errorf("shared segment of %s and %s: %w", a, b, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, pair := range [][2]*labHost{{hostA, hostB}, {hostB, hostA}} {
		from, to := pair[0], pair[1]
		for _, f := range from.spec.Interfaces {
			for _, target := range to.spec.Interfaces {
				for _, addr := range target.Addresses {
					g.Go(func() error {
						mac, err := ProbeARP(ctx, from.ns, f.Name, addr, timeout)
						switch {
						case errors.Is(err, ErrNoARPReply), errors.Is(err, unix.ENETDOWN):
							found(false, "ARP from %s %s for %v of %s: no answer", from.spec.Name, f.Name, addr, to.spec.Name)
						case err != nil:
							return err
						default:
							found(true, "ARP from %s %s for %v of %s: answered by %v", from.spec.Name, f.Name, addr, to.spec.Name, mac)
						}
						return nil
					})
				}
			}
		}
	}
	if err := g.Wait(); err != nil {
		return Segment{}, fmt.Errorf("shared segment of %s and %s: %w", a, b, err)
	}
	slices.Sort(seg.Evidence)
	return seg, nil
}

// compareBridges looks at the bridges that the hosts' links are in.
func compareBridges(a, b *labHost, found func(shared bool, format string, args ...any)) error {
	for i, pa := range a.ports {
		bridgeA, err := pa.bridge()
		if err != nil {
			return err
		}
		for j, pb := range b.ports {
			nameA, nameB := a.spec.Name+" "+a.spec.Interfaces[i].Name, b.spec.Name+" "+b.spec.Interfaces[j].Name
			bridgeB, err := pb.bridge()
			if err != nil {
				return err
			}
			if bridgeA == bridgeB && bridgeA.index != 0 {
				found(true, "bridge: %s and %s are both in the switch of network %s", nameA, nameB, pa.sw.network.Name)
				continue
			}
			found(false, "bridge: %s is in the switch of network %s, %s in that of %s", nameA, pa.sw.network.Name, nameB, pb.sw.network.Name)
			for _, dir := range []struct {
				sw  *networkSwitch
				mac net.HardwareAddr
				who string
			}{{pa.sw, b.spec.Interfaces[j].MAC, nameB}, {pb.sw, a.spec.Interfaces[i].MAC, nameA}} {
				learnt, err := dir.sw.learnt(dir.mac)
				if err != nil {
					return err
				}
				if learnt {
					found(true, "bridge: the switch of network %s has learnt %v of %s", dir.sw.network.Name, dir.mac, dir.who)
				}
			}
		}
	}
	return nil
}

// bridgeID tells bridges apart: link numbers are only unique in one switch.
type bridgeID struct {
	sw    *networkSwitch
	index int
}

// bridge asks the kernel which bridge a port is in now.
func (p port) bridge() (bridgeID, error) {
	link, err := p.sw.h.LinkByName(p.name)
	if err != nil {
		return bridgeID{}, fmt.Errorf("switch of network %s: port %s: %w", p.sw.network.Name, p.name, err)
	}
	return bridgeID{p.sw, link.Attrs().MasterIndex}, nil
}

// learnt says whether the bridge forwards to the hardware address.
func (s *networkSwitch) learnt(mac net.HardwareAddr) (bool, error) {
	entries, err := s.h.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		return false, fmt.Errorf("switch of network %s: read its forwarding table: %w", s.network.Name, err)
	}
	for _, e := range entries {
		if slices.Equal(e.HardwareAddr, mac) {
			return true, nil
		}
	}
	return false, nil
}
