package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The links by which packets that were held up come into their namespace, and the table that keeps them from coming in before.
const (
	lateOut   = "keylab-late"
	lateIn    = "keylab-late-in"
	lateTable = "keylab-late"
)

// HoldUp holds up the IPv4 packets that come into this process' namespace by one of its links, until ctx ends, and calls ready when it does so. Only what
// comes in is held up: for whoever waits for an answer, twice the time comes to the same as the time in each direction. It is for hosts whose links are
// somebody else's, as a container's are Docker's; links of a [Lab] are impaired by [Lab.Impair]. The caller needs CAP_NET_ADMIN and CAP_NET_RAW.
//
// A table of nftables drops the packets at the link (netdev, ingress), behind packet sockets, which still see them (packet(7)); so they are taken from one,
// held, and given to the namespace by a link of its own that has the same MAC.
func HoldUp(ctx context.Context, link string, delay, jitter time.Duration, ready func()) error {
	if delay <= 0 || jitter < 0 {
		return fmt.Errorf("hold up what comes in by %s: delay %s, jitter %s: want a delay, and no negative jitter", link, delay, jitter)
	}
	if err := holdUp(ctx, Current(), link, Impairment{Delay: delay, Jitter: jitter}, ready); err != nil {
		return fmt.Errorf("hold up what comes in by %s: %w", link, err)
	}
	return nil
}

// LetIn lets in at once what comes into this process' namespace, whatever has become of who held it up; it is no error when nobody does.
func LetIn() error {
	if err := letIn(Current()); err != nil {
		return fmt.Errorf("let in what is held up: %w", err)
	}
	return nil
}

func holdUp(ctx context.Context, ns *Namespace, link string, i Impairment, ready func()) (err error) {
	if err := letIn(ns); err != nil { // what an earlier one left
		return err
	}
	defer func() { err = errors.Join(err, letIn(ns)) }()
	h, err := ns.handle()
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(link)
	if err != nil {
		return fmt.Errorf("find it: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = lateOut, l.Attrs().MTU
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: lateIn, PeerTxQLen: -1, PeerMTU: uint32(attrs.MTU), PeerHardwareAddr: l.Attrs().HardwareAddr}
	if err := h.LinkAdd(pair); err != nil {
		return fmt.Errorf("add a link: %w", err)
	}
	for _, end := range []string{lateOut, lateIn} {
		made, err := h.LinkByName(end)
		if err == nil {
			err = h.LinkSetARPOff(made) // nobody is to be found by it
		}
		if err == nil {
			err = h.LinkSetUp(made)
		}
		if err != nil {
			return fmt.Errorf("link %s: %w", end, err)
		}
	}
	// Answers go out by another link than the one by which they were asked for: a strict filter of senders' addresses would drop what comes in, and a loose one
	// what comes in by a link without any address (ip-sysctl, rp_filter).
	in, err := h.LinkByName(lateIn)
	if err == nil {
		err = h.AddrAdd(in, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(169, 254, 255, 254), Mask: net.CIDRMask(32, 32)}, Scope: unix.RT_SCOPE_LINK})
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", lateIn, err)
	}
	err = ns.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/"+lateIn+"/rp_filter", []byte("2"), 0) })
	if err != nil {
		return fmt.Errorf("link %s: %w", lateIn, err)
	}
	c := &cable{ended: make(chan struct{}), keep: isIPv4}
	defer c.close()
	for n, end := range []string{link, lateOut} {
		if c.sockets[n], err = frameSocket(ns, h, end); err != nil {
			return fmt.Errorf("packet socket on %s: %w", end, err)
		}
	}
	c.carry(c.sockets[0], c.sockets[1], i)
	if err := dropAt(ns, link); err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

// frameHeader is the length of the header that packet sockets put before frames (virtio_net_hdr), and ethernetType where a frame behind it has its type.
const (
	frameHeader  = 10
	ethernetType = frameHeader + 12
)

func isIPv4(frame []byte) bool {
	return len(frame) >= ethernetType+2 && frame[ethernetType] == unix.ETH_P_IP>>8 && frame[ethernetType+1] == unix.ETH_P_IP&0xff
}

// dropAt drops the IPv4 packets that come in by a link.
func dropAt(ns *Namespace, link string) error {
	c, err := nftConn(ns)
	if err != nil {
		return err
	}
	defer func() { _ = c.CloseLasting() }()
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: lateTable})
	chain := c.AddChain(&nftables.Chain{
		Name: "held", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFirst, Device: link,
	})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(unix.ETH_P_IP)},
		drop()[0],
	}})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("drop at %s what is to be held up: %w", link, err)
	}
	return nil
}

func letIn(ns *Namespace) error {
	c, err := nftConn(ns)
	if err != nil {
		return err
	}
	defer func() { _ = c.CloseLasting() }()
	c.DelTable(c.AddTable(&nftables.Table{Family: nftables.TableFamilyNetdev, Name: lateTable})) // so that it is there
	if err := c.Flush(); err != nil {
		return fmt.Errorf("delete the table %s: %w", lateTable, err)
	}
	h, err := ns.handle()
	if err != nil {
		return err
	}
	defer h.Close()
	made, err := h.LinkByName(lateOut)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err == nil {
		err = h.LinkDel(made) // takes the other end with it
	}
	if err != nil {
		return fmt.Errorf("delete the link %s: %w", lateOut, err)
	}
	return nil
}
