package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Names in the namespace of a NAT router, and those of its counters.
const (
	natPrefix        = "nat-" // and the host's name: the router's namespace
	natTable         = "keylab-nat"
	natInside        = "inside"  // the link to the host
	natOutside       = "outside" // the link to the network, with the host's own address
	counterNATNew    = "translated"
	counterNATClosed = "refused"
	nonlocalBind     = "ipv4/ip_nonlocal_bind" // sysctl: programs may listen at addresses that the host does not have
)

// innerSpace is where networks behind NAT routers are: the addresses for benchmarks (RFC 2544), as everything of a lab.
var innerSpace = netip.MustParsePrefix("198.18.0.0/15")

// NATStats is what a host's NAT router has done.
type NATStats struct {
	Inner      netip.Addr // the host's own address, behind the router
	Translated uint64     // connections of the host that the router gave its own address, whatever their protocol
	Refused    uint64     // packets from outside that belong to none of these; they were dropped
}

// natRouter is a namespace between a host's port and the switch.
type natRouter struct {
	port   port // the host's, which is in a bridge of its own meanwhile
	name   string
	inner  netip.Prefix // the network of two addresses: the router's and, one higher, the host's
	ns     *Namespace
	h      *netlink.Handle
	bridge string // of port and the router's inner link, in the switch's namespace
	near   [2]string
}

func (n *natRouter) gateway() netip.Addr { return n.inner.Addr().Next() }
func (n *natRouter) host() netip.Addr    { return n.gateway().Next() }

// InsertNAT puts a host behind a NAT router of its own, as a machine behind a home router or a cloud's NAT gateway is. The router takes over the host's
// address and hardware address towards the network, and lets every connection of the host out as its own; the host gets an address which nobody else
// of the lab can reach, and connections to it, from whomever, are dropped at the router. Programs of the host may listen at its old address still, or
// anew, so that they are there when it has that again. Connections which there were are broken.
//
// It is for hosts with one interface and one address, on good cables (see [Lab.Impair]).
func (l *Lab) InsertNAT(ctx context.Context, host string) (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fail := func(err error) error { return fmt.Errorf("put %s behind a NAT router: %w", host, err) }
	h := l.hosts[host]
	switch {
	case h == nil:
		return fail(errors.New("no such host"))
	case h.nat != nil:
		return fail(errors.New("it is behind one already"))
	case len(h.spec.Interfaces) != 1 || len(h.spec.Interfaces[0].Addresses) != 1:
		return fail(errors.New("want a host with one interface and one address"))
	case len(h.cables) > 0:
		return fail(errors.New("its cable is impaired: take that away first"))
	}
	inner, ok := l.innerNetwork()
	if !ok {
		return fail(fmt.Errorf("the lab's networks leave no room in %v", innerSpace))
	}
	h.nat = &natRouter{port: h.ports[0], name: natPrefix + host, inner: inner}
	defer func() {
		if err != nil {
			err = errors.Join(fail(err), h.leaveNAT())
		}
	}()
	if err := h.nat.build(ctx, l.dir, h.spec); err != nil {
		return err
	}
	if err := h.ns.Do(func() error { return writeSysctl(nonlocalBind, "1") }); err != nil {
		return err
	}
	if err := h.readdress(h.spec.Interfaces[0].Addresses[0], netip.PrefixFrom(h.nat.host(), inner.Bits()), []Route{DefaultRoute(h.nat.gateway())}); err != nil {
		return err
	}
	return h.nat.insert(ctx)
}

// RemoveNAT takes the host's NAT router away: the host has its address again. It does no harm to a host that has none.
func (l *Lab) RemoveNAT(host string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hosts[host]
	if h == nil {
		return fmt.Errorf("take the NAT router of %s away: no such host", host)
	}
	if err := h.leaveNAT(); err != nil {
		return fmt.Errorf("take the NAT router of %s away: %w", host, err)
	}
	return nil
}

// NAT is what the host's NAT router has done; ok is false when the host is behind none.
func (l *Lab) NAT(host string) (s NATStats, ok bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hosts[host]
	if h == nil || h.nat == nil {
		return s, false, nil
	}
	counters, err := readCounters(h.nat.ns, natTableOf())
	if err != nil {
		return s, true, fmt.Errorf("read the counters of the NAT router of %s: %w", host, err)
	}
	s.Inner = h.nat.host()
	for _, c := range counters {
		switch c.Name {
		case counterNATNew:
			s.Translated = c.Packets // a chain of type nat sees the first packet of each connection only
		case counterNATClosed:
			s.Refused = c.Packets
		}
	}
	return s, true, nil
}

// innerNetwork is the highest network of two addresses that no network of the lab has. Several NAT routers may have the same: nobody sees it but the host.
func (l *Lab) innerNetwork() (netip.Prefix, bool) {
	const bits, size = 30, 4
	first := innerSpace.Addr().As4()
	for offset := 1<<(32-innerSpace.Bits()) - size; offset >= 0; offset -= size {
		a := netip.AddrFrom4([4]byte{first[0], first[1] + byte(offset>>16), byte(offset >> 8), byte(offset)})
		p := netip.PrefixFrom(a, bits)
		if !slices.ContainsFunc(l.order, func(name string) bool { return l.networks[name].Prefix.Overlaps(p) }) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// leaveNAT gives the host its address back and ends its NAT router, however much of it there is.
func (h *labHost) leaveNAT() error {
	if h.nat == nil {
		return nil
	}
	n := h.nat
	h.nat = nil
	f := h.spec.Interfaces[0]
	return errors.Join(
		n.remove(),
		h.ns.Do(func() error { return writeSysctl(nonlocalBind, "0") }),
		h.readdress(n.host(), netip.PrefixFrom(f.Addresses[0], n.port.sw.network.Prefix.Bits()), h.spec.Routes))
}

// readdress replaces the address of the host's only interface, and all its routes. Doing it twice does no harm.
func (h *labHost) readdress(from netip.Addr, to netip.Prefix, routes []Route) error {
	link, err := h.h.LinkByName(h.spec.Interfaces[0].Name)
	if err != nil {
		return err
	}
	old, err := h.h.AddrList(link, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list its addresses: %w", err)
	}
	// With the last address all routes of the link go, too.
	for _, a := range old {
		if err := h.h.AddrDel(link, &a); err != nil {
			return fmt.Errorf("take %v away: %w", a.IPNet, err)
		}
	}
	if err := h.h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(to)}); err != nil {
		return fmt.Errorf("address %v: %w", to, err)
	}
	for _, r := range routes {
		if err := h.h.RouteAdd(&netlink.Route{Dst: ipNet(r.To), Gw: r.Via.AsSlice()}); err != nil {
			return fmt.Errorf("route to %v by %v: %w", r.To, r.Via, err)
		}
	}
	return breakConnections(h.ns, from)
}

// breakConnections ends the TCP connections that have a local address which the namespace no longer has. Programs would only learn at their own
// time-outs that nobody can answer them any more; and on kernels which cannot do this (INET_DIAG_DESTROY), they do.
func breakConnections(ns *Namespace, local netip.Addr) error {
	const listening = 10 // TCP_LISTEN
	err := ns.Do(func() error {
		sockets, err := netlink.SocketDiagTCP(unix.AF_INET)
		if err != nil {
			return fmt.Errorf("list its TCP connections: %w", err)
		}
		for _, s := range sockets {
			if !s.ID.Source.Equal(local.AsSlice()) || s.State == listening {
				continue
			}
			err := netlink.SocketDestroy(&net.TCPAddr{IP: s.ID.Source, Port: int(s.ID.SourcePort)}, &net.TCPAddr{IP: s.ID.Destination, Port: int(s.ID.DestinationPort)})
			if errors.Is(err, unix.EOPNOTSUPP) {
				return nil
			}
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("break its connection from port %d to %v: %w", s.ID.SourcePort, s.ID.Destination, err)
			}
		}
		return nil
	})
	return err
}

// build makes the router, with its links in a bridge of its own and in the network's. The host's port is not in the first one yet.
func (n *natRouter) build(ctx context.Context, dir string, host Host) (err error) {
	sw, f := n.port.sw, host.Interfaces[0]
	if n.ns, err = New(ctx, dir, n.name); err != nil {
		return err
	}
	if err := n.ns.Do(func() error { return writeSysctl("ipv4/ip_forward", "1") }); err != nil {
		return fmt.Errorf("let the router forward: %w", err)
	}
	if n.h, err = n.ns.handle(); err != nil {
		return err
	}
	if err := n.translate(); err != nil {
		return fmt.Errorf("rules of the router (is the kernel module nft_masq there?): %w", err)
	}
	n.bridge = sw.nextName("natbr")
	noSnooping := false
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = n.bridge, sw.network.mtu()
	br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &noSnooping}
	if err := sw.h.LinkAdd(br); err != nil {
		return fmt.Errorf("add a bridge: %w", err)
	}
	if err := sw.h.LinkSetUp(br); err != nil {
		return fmt.Errorf("set bridge %s up: %w", n.bridge, err)
	}
	for i, side := range []struct {
		name    string
		address netip.Prefix
		mac     net.HardwareAddr
		bridge  int
	}{
		{natInside, netip.PrefixFrom(n.gateway(), n.inner.Bits()), DefaultMAC(n.gateway()), br.Attrs().Index},
		// Fixed neighbour entries of others have the host's own hardware address.
		{natOutside, netip.PrefixFrom(f.Addresses[0], sw.network.Prefix.Bits()), f.MAC, 0},
	} {
		n.near[i] = sw.nextName("nat")
		if err := n.connect(n.near[i], side.name, side.address, side.mac, side.bridge); err != nil {
			return fmt.Errorf("link %s of the router: %w", side.name, err)
		}
	}
	for _, r := range host.Routes {
		if err := n.h.RouteAdd(&netlink.Route{Dst: ipNet(r.To), Gw: r.Via.AsSlice()}); err != nil {
			return fmt.Errorf("the router's route to %v by %v: %w", r.To, r.Via, err)
		}
	}
	return nil
}

// connect makes one link of the router, whose other end is in the switch's namespace, in the bridge of that number, or in none.
func (n *natRouter) connect(near, name string, address netip.Prefix, mac net.HardwareAddr, bridge int) error {
	sw := n.port.sw
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = near, sw.network.mtu(), bridge
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerTxQLen: -1, PeerMTU: uint32(attrs.MTU), PeerHardwareAddr: mac}
	err := n.ns.withFD(func(fd int) error {
		veth.PeerNamespace = netlink.NsFd(fd)
		return sw.h.LinkAdd(veth)
	})
	if err != nil {
		return fmt.Errorf("add it: %w", err)
	}
	if err := sw.h.LinkSetUp(veth); err != nil {
		return fmt.Errorf("set its end in the switch up: %w", err)
	}
	link, err := n.h.LinkByName(name)
	if err == nil {
		err = n.h.AddrAdd(link, &netlink.Addr{IPNet: ipNet(address)})
	}
	if err == nil {
		err = n.h.LinkSetUp(link)
	}
	return err
}

// translate sets the router's rules.
func (n *natRouter) translate() error {
	return nftBatch(n.ns, func(c *nftables.Conn) {
		t := c.AddTable(natTableOf())
		for _, name := range []string{counterNATNew, counterNATClosed} {
			c.AddObj(&nftables.CounterObj{Table: t, Name: name})
		}
		add := func(chain *nftables.Chain, exprs ...[]expr.Any) {
			c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: slices.Concat(exprs...)})
		}
		out := c.AddChain(&nftables.Chain{Name: "postrouting", Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
		add(out, toLink(natOutside), count(counterNATNew), []expr.Any{&expr.Masq{}})
		closed := nftables.ChainPolicyDrop
		forward := c.AddChain(&nftables.Chain{Name: chainForward, Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &closed})
		add(forward, ctState(expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), accept())
		add(forward, fromLink(natInside), accept())
		add(forward, count(counterNATClosed))
		// What comes for the host's address is for the router itself, unless it belongs to a connection that was translated.
		input := c.AddChain(&nftables.Chain{Name: chainInput, Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &closed})
		add(input, fromLink(natOutside), count(counterNATClosed))
	})
}

func natTableOf() *nftables.Table {
	return &nftables.Table{Name: natTable, Family: nftables.TableFamilyINet}
}

// insert puts the host's port into the router's bridge in place of the network's, the router's outer link into that, and waits until they carry packets.
func (n *natRouter) insert(ctx context.Context) error {
	sw := n.port.sw
	for _, move := range []struct{ link, bridge string }{{n.port.name, n.bridge}, {n.near[1], bridgeName}} {
		link, err := sw.h.LinkByName(move.link)
		if err != nil {
			return fmt.Errorf("link %s of the switch: %w", move.link, err)
		}
		bridge, err := sw.h.LinkByName(move.bridge)
		if err == nil {
			err = sw.h.LinkSetMaster(link, bridge)
		}
		if err != nil {
			return fmt.Errorf("put %s into bridge %s: %w", move.link, move.bridge, err)
		}
	}
	where := n.port.end().where
	router := "the NAT router " + n.name
	return awaitUp(ctx, []linkEnd{{sw.h, n.near[0], where}, {sw.h, n.near[1], where}, {n.h, natInside, router}, {n.h, natOutside, router}})
}

// remove puts the host's port back and takes the router away, or as much as there is of it.
func (n *natRouter) remove() error {
	h := n.port.sw.h
	var errs []error
	for _, name := range []string{n.near[1], n.near[0], n.bridge} {
		if name == "" {
			continue
		}
		link, err := h.LinkByName(name)
		if err == nil {
			err = h.LinkDel(link)
		}
		if err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) {
			errs = append(errs, fmt.Errorf("delete %s: %w", name, err))
		}
	}
	link, err := h.LinkByName(n.port.name)
	if err == nil {
		err = h.LinkSetMasterByIndex(link, n.port.sw.bridge)
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("put port %s into the switch again: %w", n.port.name, err))
	}
	return errors.Join(append(errs, n.release())...)
}

// release lets go of the router's namespace.
func (n *natRouter) release() error {
	if n.h != nil {
		n.h.Close()
	}
	if n.ns == nil {
		return nil
	}
	return n.ns.Close()
}
