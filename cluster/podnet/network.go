package podnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"keylab.dev/keylab/internal/atomicfile"
)

// cniFile sorts before what others may leave there: the kubelet's container runtime takes the first.
const cniFile = "10-keylab.conflist"

// writeCNI writes the CNI configuration of one node: addresses out of its own range.
func writeCNI(dir string, pods netip.Prefix) error {
	config := map[string]any{
		"cniVersion": "1.0.0", "name": "keylab",
		"plugins": []any{
			map[string]any{
				"type": "ptp", "ipMasq": false, "mtu": mtu(),
				"ipam": map[string]any{
					"type": "host-local", "dataDir": "/run/cni-ipam-state",
					"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
					"ranges": []any{[]any{map[string]any{"subnet": pods.String()}}},
				},
			},
			map[string]any{"type": "portmap", "capabilities": map[string]any{"portMappings": true}},
		},
	}
	data, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the CNI configuration: %w", err)
	}
	data = append(data, '\n')
	path := filepath.Join(dir, cniFile)
	if old, err := os.ReadFile(path); err == nil && string(old) == string(data) {
		return nil
	}
	return atomicfile.Write(path, data, 0o644)
}

// mtu is that of the link with the default route; 1500 where there is none.
func mtu() int {
	routes, err := netlink.RouteList(nil, unix.AF_INET)
	if err == nil {
		for _, r := range routes {
			if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
				continue
			}
			if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
				return link.Attrs().MTU
			}
		}
	}
	return 1500
}

// routeProtocol marks routes as this package's own (rtnetlink(7), rtm_protocol; 64 to 255 are free for daemons).
const routeProtocol = 107

// setRoutes makes the routes to the other nodes' pods, and removes those to nodes that are gone.
func setRoutes(cluster netip.Prefix, want map[netip.Prefix]netip.Addr) error {
	var errs []error
	for pods, via := range want {
		r := &netlink.Route{Dst: ipNet(pods), Gw: via.AsSlice(), Protocol: routeProtocol}
		if err := netlink.RouteReplace(r); err != nil {
			errs = append(errs, fmt.Errorf("route to %s by way of %s: %w", pods, via, err))
		}
	}
	have, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("list the routes: %w", err))...)
	}
	for _, r := range have {
		if r.Dst == nil {
			continue
		}
		ones, _ := r.Dst.Mask.Size()
		a, _ := netip.AddrFromSlice(r.Dst.IP)
		pods := netip.PrefixFrom(a.Unmap(), ones)
		if _, ok := want[pods]; ok || !cluster.Contains(pods.Addr()) {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil {
			errs = append(errs, fmt.Errorf("remove the route to %s: %w", pods, err))
		}
	}
	return errors.Join(errs...)
}

// setRules makes what pods send out of the cluster leave as their node, and refuses what is sent to services and was led to no pod, in a table of its own
// that is replaced as a whole.
//
// Such packets are there until kube-proxy has made its rules. Without an answer who sent them would wait for half a minute, as client-go does: all that comes
// after the first packet of a connection goes the way of that (nf_conntrack), also when the rules are there.
func setRules(pods, services netip.Prefix) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("rules of the pods' network: %w", err)
	}
	table := &nftables.Table{Name: "keylab-podnet", Family: nftables.TableFamilyIPv4}
	c.AddTable(table)
	c.DelTable(table)
	c.AddTable(table)
	const offsetSource, offsetDestination = 12, 16 // in the IPv4 header (RFC 791, section 3.1)
	leaving := c.AddChain(&nftables.Chain{Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	rule := append(address(offsetSource, pods, expr.CmpOpEq), address(offsetDestination, pods, expr.CmpOpNeq)...)
	rule = append(rule, &expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
		&expr.Masq{})
	c.AddRule(&nftables.Rule{Table: table, Chain: leaving, Exprs: rule})
	if services.IsValid() {
		for name, hook := range map[string]*nftables.ChainHook{"forward": nftables.ChainHookForward, "output": nftables.ChainHookOutput} {
			chain := c.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter})
			// TCP by its own means: of ICMP the kernel sends a host only so much (icmp(7), icmp_ratelimit).
			for _, refuse := range [][]expr.Any{
				{
					&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
					&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
				},
				{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: portUnreachable}},
			} {
				c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(address(offsetDestination, services, expr.CmpOpEq), refuse...)})
			}
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("rules of the pods' network %s: %w", pods, err)
	}
	return nil
}

// portUnreachable is the code of the ICMP message by which a datagram is refused (RFC 792).
const portUnreachable = 3

// address compares an address of the packet with a prefix.
func address(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	mask := net.CIDRMask(p.Bits(), 32)
	base := p.Masked().Addr().As4()
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: op, Register: 1, Data: base[:]},
	}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}
