package netlab

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The functions below return the expressions of one match or verdict each, to
// be joined into a rule. Register 1 serves them all: each loads it and compares
// it before the next does.

func ctState(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// Offsets in the IPv4 header (RFC 791, section 3.1).
const (
	offsetSource      = 12
	offsetDestination = 16
)

func sourceIn(p netip.Prefix) []expr.Any      { return addressIn(offsetSource, p) }
func destinationIn(p netip.Prefix) []expr.Any { return addressIn(offsetDestination, p) }

func addressIn(offset uint32, p netip.Prefix) []expr.Any {
	return []expr.Any{
		// The table is of family inet: without this, the offsets would be read in IPv6 headers too.
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: net.CIDRMask(p.Bits(), 32), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Addr().AsSlice()},
	}
}

func protocol(number byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}},
	}
}

// destinationPort matches a TCP or UDP port; the rule must match the protocol before. 0 matches all.
func destinationPort(port uint16) []expr.Any {
	if port == 0 {
		return nil
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

// tcpSYN matches a connection's first segment: SYN without ACK, RST or FIN (RFC 9293, section 3.1).
func tcpSYN() []expr.Any {
	const fin, syn, rst, ack = 0x01, 0x02, 0x04, 0x10
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{fin | syn | rst | ack}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{syn}},
	}
}

// icmpEchoRequest matches type 8 (RFC 792); the rule must match the protocol before.
func icmpEchoRequest() []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{8}},
	}
}

func fromLink(name string) []expr.Any { return byLink(expr.MetaKeyIIFNAME, name) }
func toLink(name string) []expr.Any   { return byLink(expr.MetaKeyOIFNAME, name) }

func byLink(which expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: which, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded},
	}
}

func count(counter string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counter}}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() []expr.Any   { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

// nftConn opens a connection to the nftables of the namespace.
func nftConn(ns *Namespace) (*nftables.Conn, error) {
	var c *nftables.Conn
	err := ns.Do(func() error {
		var err error
		c, err = nftables.New(nftables.AsLasting())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a netfilter socket: %w", err)
	}
	return c, nil
}

// nftBatch sends the commands that f collects as one transaction.
func nftBatch(ns *Namespace, f func(*nftables.Conn)) error {
	c, err := nftConn(ns)
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	f(c)
	return c.Flush()
}

// readCounters reads the named counters of a table, sorted by name.
func readCounters(ns *Namespace, t *nftables.Table) ([]Counter, error) {
	c, err := nftConn(ns)
	if err != nil {
		return nil, err
	}
	defer c.CloseLasting()
	objs, err := c.GetObjects(t)
	if err != nil {
		return nil, err
	}
	var counters []Counter
	for _, o := range objs {
		if o, ok := o.(*nftables.CounterObj); ok && o.Table.Name == t.Name {
			counters = append(counters, Counter{Name: o.Name, Packets: o.Packets, Bytes: o.Bytes})
		}
	}
	slices.SortFunc(counters, func(a, b Counter) int { return cmp.Compare(a.Name, b.Name) })
	return counters, nil
}
