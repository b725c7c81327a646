package netlab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// switchPrefix starts the namespace name of every network's switch.
const switchPrefix = "switch-"

// maxLinkName is the longest link name in bytes (IFNAMSIZ less its final zero).
const maxLinkName = 15

// Topology is what [Build] builds: networks, and hosts with an interface in
// one or more of them.
type Topology struct {
	Networks []Network `json:"networks"`
	Hosts    []Host    `json:"hosts"`
}

// Network is one layer-2 segment: a Linux bridge, alone in a network namespace
// of its own, so that two networks share neither a segment nor a kernel table.
type Network struct {
	Name   string       `json:"name"`
	Prefix netip.Prefix `json:"prefix"`        // IPv4; the addresses of its hosts
	MTU    int          `json:"mtu,omitempty"` // bytes; 0 means 1500
}

// Host is one machine of the lab, with a network namespace of its own.
type Host struct {
	Name       string      `json:"name"`
	Interfaces []Interface `json:"interfaces"`
	Routes     []Route     `json:"routes,omitempty"`
	Forward    bool        `json:"forward,omitempty"` // forwards packets between its interfaces: a router
	// Hub marks a host that most others talk to, such as an ingress or a
	// registrar; every router is one. Hubs and the other hosts of their networks
	// need no ARP for each other, without which hundreds of hosts would overrun
	// the kernel's neighbour table.
	Hub bool `json:"hub,omitempty"`
}

// Interface is a host's link into a network.
type Interface struct {
	Network   string           `json:"network"`
	Name      string           `json:"name,omitempty"` // "" means eth0, eth1, … by position
	Addresses []netip.Addr     `json:"addresses"`      // in the network's prefix
	MAC       net.HardwareAddr `json:"mac,omitempty"`  // nil: 02:4b and the first address, so that it is the same in every run
}

// Route sends packets for To by way of Via, an address in one of the host's networks.
type Route struct {
	To  netip.Prefix `json:"to"`
	Via netip.Addr   `json:"via"`
}

// DefaultRoute is the route for everything not otherwise known.
func DefaultRoute(via netip.Addr) Route {
	return Route{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: via}
}

// DefaultMAC is the hardware address an interface gets when none is given: the
// locally administered (IEEE 802, bit 1 of the first byte) 02:4b and the IPv4
// address.
func DefaultMAC(a netip.Addr) net.HardwareAddr {
	ip := a.Unmap().As4()
	return net.HardwareAddr{0x02, 0x4b, ip[0], ip[1], ip[2], ip[3]}
}

// withDefaults returns the host with interface names and MACs filled in.
func (h Host) withDefaults() Host {
	ifs := make([]Interface, len(h.Interfaces))
	copy(ifs, h.Interfaces)
	for i := range ifs {
		if ifs[i].Name == "" {
			ifs[i].Name = fmt.Sprintf("eth%d", i)
		}
		if ifs[i].MAC == nil && len(ifs[i].Addresses) > 0 && ifs[i].Addresses[0].Unmap().Is4() {
			ifs[i].MAC = DefaultMAC(ifs[i].Addresses[0])
		}
	}
	h.Interfaces = ifs
	return h
}

// Validate reports every fault of the topology at once, each naming its
// network, host or interface.
func (t Topology) Validate() error {
	var errs []error
	networks := map[string]Network{}
	for i, n := range t.Networks {
		where := fmt.Sprintf("network %q", n.Name)
		if err := checkNamespaceName(n.Name); err != nil {
			errs = append(errs, fmt.Errorf("networks[%d]: %w", i, err))
		}
		if _, twice := networks[n.Name]; twice {
			errs = append(errs, fmt.Errorf("%s: named twice", where))
		}
		if !n.Prefix.IsValid() || !n.Prefix.Addr().Is4() || n.Prefix != n.Prefix.Masked() {
			errs = append(errs, fmt.Errorf("%s: prefix %v: want an IPv4 network address such as 198.18.10.0/24", where, n.Prefix))
		}
		for _, o := range networks {
			if o.Name != n.Name && o.Prefix.IsValid() && n.Prefix.IsValid() && o.Prefix.Overlaps(n.Prefix) {
				errs = append(errs, fmt.Errorf("%s: prefix %v overlaps %v of network %q", where, n.Prefix, o.Prefix, o.Name))
			}
		}
		if n.MTU != 0 && (n.MTU < 576 || n.MTU > 65535) {
			errs = append(errs, fmt.Errorf("%s: MTU %d: want 576 to 65535", where, n.MTU))
		}
		networks[n.Name] = n
	}
	seen := newAddressBook()
	hosts := map[string]bool{}
	for _, h := range t.Hosts {
		if hosts[h.Name] {
			errs = append(errs, fmt.Errorf("host %q: named twice", h.Name))
		}
		hosts[h.Name] = true
		errs = append(errs, checkHost(h.withDefaults(), networks, seen)...)
	}
	return errors.Join(errs...)
}

// addressBook remembers who holds an address or MAC, to refuse it to a second.
type addressBook struct {
	addrs map[netip.Addr]string
	macs  map[string]string // network + MAC
}

func newAddressBook() *addressBook {
	return &addressBook{addrs: map[netip.Addr]string{}, macs: map[string]string{}}
}

func checkHost(h Host, networks map[string]Network, seen *addressBook) []error {
	var errs []error
	if err := checkNamespaceName(h.Name); err != nil {
		errs = append(errs, fmt.Errorf("host: %w", err))
	}
	if strings.HasPrefix(h.Name, switchPrefix) {
		errs = append(errs, fmt.Errorf("host %q: names that start with %q belong to the networks' switches", h.Name, switchPrefix))
	}
	links := map[string]bool{"lo": true}
	var prefixes []netip.Prefix
	for _, f := range h.Interfaces {
		where := fmt.Sprintf("host %q, interface %q", h.Name, f.Name)
		if f.Name == "" || len(f.Name) > maxLinkName || strings.ContainsAny(f.Name, "/ \t\n:") {
			errs = append(errs, fmt.Errorf("%s: want 1 to %d characters without spaces, slashes or colons", where, maxLinkName))
		}
		if links[f.Name] {
			errs = append(errs, fmt.Errorf("%s: named twice", where))
		}
		links[f.Name] = true
		n, ok := networks[f.Network]
		if !ok {
			errs = append(errs, fmt.Errorf("%s: no network %q", where, f.Network))
			continue
		}
		prefixes = append(prefixes, n.Prefix)
		if len(f.Addresses) == 0 {
			errs = append(errs, fmt.Errorf("%s: no address", where))
		}
		for _, a := range f.Addresses {
			if !n.Prefix.Contains(a) {
				errs = append(errs, fmt.Errorf("%s: address %v is not in %v of network %q", where, a, n.Prefix, n.Name))
			}
			if other, twice := seen.addrs[a]; twice {
				errs = append(errs, fmt.Errorf("%s: address %v is already %s's", where, a, other))
			}
			seen.addrs[a] = fmt.Sprintf("host %q", h.Name)
		}
		if f.MAC != nil {
			if len(f.MAC) != 6 || f.MAC[0]&1 != 0 {
				errs = append(errs, fmt.Errorf("%s: MAC %v: want six bytes of a unicast address", where, f.MAC))
			}
			key := f.Network + " " + f.MAC.String()
			if other, twice := seen.macs[key]; twice {
				errs = append(errs, fmt.Errorf("%s: MAC %v is already %s's", where, f.MAC, other))
			}
			seen.macs[key] = fmt.Sprintf("host %q", h.Name)
		}
	}
	for _, r := range h.Routes {
		reachable := false
		for _, p := range prefixes {
			reachable = reachable || p.Contains(r.Via)
		}
		if !r.To.IsValid() || !r.To.Addr().Is4() || r.To != r.To.Masked() || !reachable {
			errs = append(errs, fmt.Errorf("host %q: route to %v by %v: want an IPv4 network and a next hop in one of the host's networks", h.Name, r.To, r.Via))
		}
	}
	return errs
}
