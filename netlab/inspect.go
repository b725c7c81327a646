package netlab

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Inspection is a lab as the kernel has it now, for people and programs to read.
type Inspection struct {
	Networks []NetworkState `json:"networks"`
	Hosts    []HostState    `json:"hosts"`
}

// NetworkState is one network's switch.
type NetworkState struct {
	Network
	Switch string   `json:"switch"` // path of its namespace
	Ports  []string `json:"ports"`  // links in the bridge, hosts' and others
}

// HostState is one host.
type HostState struct {
	Name      string       `json:"name"`
	Namespace string       `json:"namespace"` // path
	Links     []LinkState  `json:"links"`
	Routes    []RouteState `json:"routes"`
}

// LinkState is one link of a host, loopback left out.
type LinkState struct {
	Name      string         `json:"name"`
	Network   string         `json:"network,omitempty"` // "" if the lab did not make it
	Up        bool           `json:"up"`                // up, and with a carrier
	MTU       int            `json:"mtu"`               // bytes
	MAC       string         `json:"mac"`
	Addresses []netip.Prefix `json:"addresses"`
	RxBytes   uint64         `json:"rxBytes"`
	TxBytes   uint64         `json:"txBytes"`
}

// RouteState is one route of a host's main table.
type RouteState struct {
	To   netip.Prefix `json:"to"`
	Via  netip.Addr   `json:"via,omitzero"` // zero: the network itself
	Link string       `json:"link"`
}

// Inspect asks the kernel for every host's links, addresses and routes, and
// for every switch's ports.
func (l *Lab) Inspect() (Inspection, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var in Inspection
	if l.closed {
		return in, fmt.Errorf("inspect: lab %w", ErrClosed)
	}
	for _, name := range l.order {
		sw := l.switches[name]
		links, err := sw.h.LinkList()
		if err != nil {
			return in, fmt.Errorf("inspect network %s: %w", name, err)
		}
		n := NetworkState{Network: sw.network, Switch: sw.ns.Path()}
		for _, link := range links {
			if link.Attrs().MasterIndex == sw.bridge {
				n.Ports = append(n.Ports, link.Attrs().Name)
			}
		}
		in.Networks = append(in.Networks, n)
	}
	for _, name := range l.hostSeq {
		h, err := l.hosts[name].inspect()
		if err != nil {
			return in, fmt.Errorf("inspect host %s: %w", name, err)
		}
		in.Hosts = append(in.Hosts, h)
	}
	return in, nil
}

func (h *labHost) inspect() (HostState, error) {
	state := HostState{Name: h.spec.Name, Namespace: h.ns.Path()}
	err := inspect(h.h, &state)
	for i := range state.Links {
		for _, f := range h.spec.Interfaces {
			if f.Name == state.Links[i].Name {
				state.Links[i].Network = f.Network
			}
		}
	}
	return state, err
}

// InspectNamespace asks the kernel for the links, addresses and routes of one
// namespace, whoever made it.
func InspectNamespace(ns *Namespace) (HostState, error) {
	state := HostState{Name: ns.Name(), Namespace: ns.Path()}
	h, err := ns.handle()
	if err != nil {
		return state, err
	}
	defer h.Close()
	return state, inspect(h, &state)
}

func inspect(h *netlink.Handle, state *HostState) error {
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list its links: %w", err)
	}
	names := map[int]string{}
	for _, link := range links {
		attrs := link.Attrs()
		names[attrs.Index] = attrs.Name
		if attrs.Name == "lo" {
			continue
		}
		addrs, err := h.AddrList(link, unix.AF_INET)
		if err != nil {
			return fmt.Errorf("list the addresses of %s: %w", attrs.Name, err)
		}
		s := LinkState{
			Name: attrs.Name, MTU: attrs.MTU, MAC: attrs.HardwareAddr.String(),
			Up: attrs.OperState == netlink.OperUp,
		}
		for _, a := range addrs {
			if p, ok := netipPrefix(a.IPNet.IP, a.IPNet.Mask); ok {
				s.Addresses = append(s.Addresses, p)
			}
		}
		if attrs.Statistics != nil {
			s.RxBytes, s.TxBytes = attrs.Statistics.RxBytes, attrs.Statistics.TxBytes
		}
		state.Links = append(state.Links, s)
	}
	routes, err := h.RouteList(nil, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list its routes: %w", err)
	}
	for _, r := range routes {
		s := RouteState{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Link: names[r.LinkIndex]}
		if r.Dst != nil {
			s.To, _ = netipPrefix(r.Dst.IP, r.Dst.Mask)
		}
		if via, ok := netip.AddrFromSlice(r.Gw); ok {
			s.Via = via.Unmap()
		}
		state.Routes = append(state.Routes, s)
	}
	return nil
}

func netipPrefix(ip, mask []byte) (netip.Prefix, bool) {
	a, ok := netip.AddrFromSlice(ip)
	bits := 0
	for _, b := range mask {
		for ; b&0x80 != 0; b <<= 1 {
			bits++
		}
	}
	return netip.PrefixFrom(a.Unmap(), bits), ok
}
