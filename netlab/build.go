package netlab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// bridgeName is the bridge's name in every switch namespace.
const bridgeName = "br0"

// Lab is a built topology. Its methods may be called from many goroutines.
type Lab struct {
	dir      string
	networks map[string]Network
	order    []string // network names in the topology's order

	mu       sync.Mutex
	switches map[string]*networkSwitch // by network name
	hosts    map[string]*labHost       // by host name
	hostSeq  []string                  // host names, in the order of addition
	closed   bool
}

// networkSwitch is a network's bridge and the namespace that holds nothing else.
type networkSwitch struct {
	network Network
	ns      *Namespace
	h       *netlink.Handle
	bridge  int // link index

	mu    sync.Mutex
	ports int // how many were ever made: names of ports are never used twice
}

type labHost struct {
	spec   Host // with defaults filled in
	ns     *Namespace
	h      *netlink.Handle
	ports  []port         // one for each interface
	cables []*cable       // bad ones, in place of the ports' own; guarded by Lab.mu
	nat    *natRouter     // between the port and the switch, or nil; guarded by Lab.mu
	links  map[string]int // link numbers by interface name
}

// port is the switch's end of a host's veth pair.
type port struct {
	sw   *networkSwitch
	name string
}

// ends are both ends of the host's links.
func (h *labHost) ends() []linkEnd {
	var ends []linkEnd
	for i, p := range h.ports {
		ends = append(ends,
			linkEnd{h.h, h.spec.Interfaces[i].Name, "host " + h.spec.Name},
			p.end())
	}
	return ends
}

func (p port) end() linkEnd {
	return linkEnd{p.sw.h, p.name, "the switch of network " + p.sw.network.Name}
}

// Build makes the topology's namespaces under dir (such as /run/netns, in a
// mount namespace of the caller's own), its bridges, links, addresses and
// routes. Hosts are built in parallel. The error names the host and the link
// where it failed, and then everything made so far is undone.
func Build(ctx context.Context, dir string, t Topology) (*Lab, error) {
	if err := t.Validate(); err != nil {
		return nil, fmt.Errorf("topology: %w", err)
	}
	l := &Lab{
		dir:      dir,
		networks: map[string]Network{},
		switches: map[string]*networkSwitch{},
		hosts:    map[string]*labHost{},
	}
	for _, n := range t.Networks {
		l.networks[n.Name] = n
		l.order = append(l.order, n.Name)
	}
	if err := l.build(ctx, t); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) build(ctx context.Context, t Topology) error {
	for _, n := range t.Networks {
		sw, err := newSwitch(ctx, l.dir, n)
		if err != nil {
			return fmt.Errorf("network %s: %w", n.Name, err)
		}
		l.switches[n.Name] = sw
	}
	for _, h := range t.Hosts {
		l.hostSeq = append(l.hostSeq, h.Name)
	}
	g, groupCtx := errgroup.WithContext(ctx)
	// The kernel's routing lock serialises half of the work; more workers
	// than this only wait for it.
	g.SetLimit(2 * runtime.GOMAXPROCS(0))
	for _, h := range t.Hosts {
		g.Go(func() error {
			host, err := l.buildHost(groupCtx, h)
			if err != nil {
				return err
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.hosts[h.Name] = host
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	var ends []linkEnd
	for _, h := range l.hosts {
		for _, hub := range l.hosts {
			if !hub.spec.hub() || h.spec.hub() && h.spec.Name > hub.spec.Name {
				continue // two hubs meet only once
			}
			if err := introduce(h, hub, setNeighbour); err != nil {
				return err
			}
		}
		ends = append(ends, h.ends()...)
	}
	return awaitUp(ctx, ends)
}

func newSwitch(ctx context.Context, dir string, n Network) (*networkSwitch, error) {
	ns, err := New(ctx, dir, switchPrefix+n.Name)
	if err != nil {
		return nil, err
	}
	h, err := ns.handle()
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	sw := &networkSwitch{network: n, ns: ns, h: h}
	noSnooping := false // a lab has no multicast routers to wait for
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	attrs.MTU = n.mtu()
	br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &noSnooping}
	if err := h.LinkAdd(br); err != nil {
		return nil, errors.Join(fmt.Errorf("add its bridge (is the kernel module `bridge` there?): %w", err), sw.close())
	}
	if err := h.LinkSetUp(br); err != nil {
		return nil, errors.Join(fmt.Errorf("set its bridge up: %w", err), sw.close())
	}
	sw.bridge = br.Attrs().Index
	return sw, nil
}

func (s *networkSwitch) close() error {
	s.h.Close()
	return s.ns.Close()
}

func (s *networkSwitch) nextName(kind string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ports++
	return fmt.Sprintf("%s%d", kind, s.ports)
}

func (n Network) mtu() int {
	if n.MTU == 0 {
		return 1500
	}
	return n.MTU
}

// buildHost makes one host; on failure it leaves nothing of it.
func (l *Lab) buildHost(ctx context.Context, spec Host) (_ *labHost, err error) {
	spec = spec.withDefaults()
	ns, err := New(ctx, l.dir, spec.Name)
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", spec.Name, err)
	}
	host := &labHost{spec: spec, ns: ns, links: map[string]int{}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("host %s: %w", spec.Name, err), host.close())
		}
	}()
	if spec.Forward {
		if err := ns.Do(func() error { return writeSysctl("ipv4/ip_forward", "1") }); err != nil {
			return nil, fmt.Errorf("let it forward: %w", err)
		}
	}
	if host.h, err = ns.handle(); err != nil {
		return nil, err
	}
	for _, f := range spec.Interfaces {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		p, err := l.connect(host, f)
		if err != nil {
			return nil, fmt.Errorf("link %s: %w", f.Name, err)
		}
		host.ports = append(host.ports, p)
	}
	for _, r := range spec.Routes {
		if err := host.h.RouteAdd(&netlink.Route{Dst: ipNet(r.To), Gw: r.Via.AsSlice()}); err != nil {
			return nil, fmt.Errorf("route to %v by %v: %w", r.To, r.Via, err)
		}
	}
	return host, nil
}

// connect makes the veth pair between the network's switch and the host.
func (l *Lab) connect(host *labHost, f Interface) (port, error) {
	sw := l.switches[f.Network]
	p := port{sw: sw, name: sw.nextName("port")}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = p.name
	attrs.MTU = sw.network.mtu()
	attrs.MasterIndex = sw.bridge
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: f.Name, PeerTxQLen: -1,
		PeerMTU: uint32(sw.network.mtu()), PeerHardwareAddr: f.MAC,
	}
	// The peer goes straight into the host's namespace: no name of it ever
	// clashes in the switch's.
	err := host.ns.withFD(func(fd int) error {
		veth.PeerNamespace = netlink.NsFd(fd)
		return sw.h.LinkAdd(veth)
	})
	if err != nil {
		return port{}, fmt.Errorf("add it (is the kernel module `veth` there?): %w", err)
	}
	if err := sw.h.LinkSetUp(veth); err != nil {
		return port{}, fmt.Errorf("set its end in the switch up: %w", err)
	}
	link, err := host.h.LinkByName(f.Name)
	if err != nil {
		return port{}, fmt.Errorf("find it: %w", err)
	}
	host.links[f.Name] = link.Attrs().Index
	for _, a := range f.Addresses {
		addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, sw.network.Prefix.Bits()))}
		if err := host.h.AddrAdd(link, addr); err != nil {
			return port{}, fmt.Errorf("address %v: %w", a, err)
		}
	}
	if err := host.h.LinkSetUp(link); err != nil {
		return port{}, fmt.Errorf("set it up: %w", err)
	}
	return p, nil
}

// close ends the host. Its links are deleted by hand, since the kernel ends a
// namespace only some time after its last user is gone, and until then the
// switch would still have the port.
func (h *labHost) close() error {
	errs := []error{h.repair(), h.leaveNAT()}
	for _, p := range h.ports {
		link, err := p.sw.h.LinkByName(p.name)
		if err == nil {
			err = p.sw.h.LinkDel(link)
		}
		if err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("host %s: delete %s in switch %s: %w", h.spec.Name, p.name, p.sw.network.Name, err))
		}
	}
	return errors.Join(append(errs, h.release())...)
}

// release lets go of the namespace; its links end with it.
func (h *labHost) release() error {
	var err error
	if h.nat != nil {
		err = h.nat.release()
	}
	if h.h != nil {
		h.h.Close()
	}
	return errors.Join(err, h.ns.Close())
}

// Host returns the named host's namespace, or nil if there is no such host.
func (l *Lab) Host(name string) *Namespace {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.hosts[name]; h != nil {
		return h.ns
	}
	return nil
}

// Hosts lists the hosts' names in the order of their addition.
func (l *Lab) Hosts() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.hostSeq)
}

// AddHost adds a host to the running lab.
func (l *Lab) AddHost(ctx context.Context, h Host) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("add host %s: lab %w", h.Name, ErrClosed)
	}
	if l.hosts[h.Name] != nil {
		return fmt.Errorf("add host %s: there is one of that name", h.Name)
	}
	seen := newAddressBook()
	for _, o := range l.hosts {
		checkHost(o.spec, l.networks, seen) // fills seen; its findings are known to be none
	}
	if err := errors.Join(checkHost(h.withDefaults(), l.networks, seen)...); err != nil {
		return fmt.Errorf("add host: %w", err)
	}
	host, err := l.buildHost(ctx, h)
	if err != nil {
		return fmt.Errorf("add host: %w", err)
	}
	err = awaitUp(ctx, host.ends())
	for _, o := range l.hosts {
		err = errors.Join(err, introduce(host, o, setNeighbour))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("add host %s: %w", h.Name, err), l.forget(host), host.close())
	}
	l.hosts[h.Name] = host
	l.hostSeq = append(l.hostSeq, h.Name)
	return nil
}

// RemoveHost takes the host's links and namespace away. Its processes must
// have been ended before: they would go on without a network.
func (l *Lab) RemoveHost(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.hosts[name]
	if h == nil {
		return fmt.Errorf("remove host %s: no such host", name)
	}
	delete(l.hosts, name)
	l.hostSeq = slices.DeleteFunc(l.hostSeq, func(n string) bool { return n == name })
	return errors.Join(l.forget(h), h.close())
}

// forget removes a host from the others' neighbour tables, so that another may
// have its addresses.
func (l *Lab) forget(h *labHost) error {
	var errs []error
	for _, o := range l.hosts {
		errs = append(errs, introduce(h, o, deleteNeighbour))
	}
	return errors.Join(errs...)
}

// Close takes the whole lab away. Closing twice returns nil.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(l.hosts)) {
		errs = append(errs, l.hosts[name].repair())
	}
	// The switches go first and take every port with them in one sweep,
	// which is far quicker than one link after the other.
	for _, sw := range l.switches {
		errs = append(errs, sw.close())
	}
	for _, name := range slices.Sorted(maps.Keys(l.hosts)) {
		errs = append(errs, l.hosts[name].release())
	}
	clear(l.switches)
	clear(l.hosts)
	l.hostSeq = nil
	return errors.Join(errs...)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
