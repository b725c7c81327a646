package netlab

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// ConnCounter counts new TCP connections to one port of a host, in the host's
// own kernel: no program on the host can count itself more or less.
type ConnCounter struct {
	ns    *Namespace
	table *nftables.Table
	port  uint16
}

// CountConnections starts counting TCP connections (segments with SYN and
// without ACK) that arrive in the namespace for the port, from 0. Connections
// that nobody accepts, and repeated SYNs, count too.
func CountConnections(ns *Namespace, port uint16) (*ConnCounter, error) {
	return countConnections(ns, port, fmt.Sprintf("keylab-tcp-%d", port), nftables.ChainHookInput, nil)
}

// CountForwarded is CountConnections for those which the namespace forwards
// to a prefix behind it, as a node does to its pods.
func CountForwarded(ns *Namespace, to netip.Prefix, port uint16) (*ConnCounter, error) {
	return countConnections(ns, port, fmt.Sprintf("keylab-forwarded-%s-%d", strings.ReplaceAll(to.Masked().String(), "/", "-"), port), nftables.ChainHookForward, destinationIn(to.Masked()))
}

func countConnections(ns *Namespace, port uint16, table string, hook *nftables.ChainHook, to []expr.Any) (*ConnCounter, error) {
	c := &ConnCounter{
		ns:    ns,
		table: &nftables.Table{Name: table, Family: nftables.TableFamilyINet},
		port:  port,
	}
	err := nftBatch(ns, func(conn *nftables.Conn) {
		conn.AddTable(c.table)
		conn.DelTable(c.table)
		conn.AddTable(c.table)
		chain := conn.AddChain(&nftables.Chain{Name: chainInput, Table: c.table, Type: nftables.ChainTypeFilter,
			Hooknum: hook, Priority: nftables.ChainPriorityFilter})
		conn.AddObj(&nftables.CounterObj{Table: c.table, Name: c.counter()})
		exprs := append(append(to, protocol(6)...), destinationPort(port)...)
		exprs = append(exprs, tcpSYN()...)
		conn.AddRule(&nftables.Rule{Table: c.table, Chain: chain, Exprs: append(exprs, count(c.counter())...)})
	})
	if err != nil {
		return nil, fmt.Errorf("count connections to port %d of %s (is the kernel module nf_tables there?): %w", port, ns.Name(), err)
	}
	return c, nil
}

// Read returns how many connections have arrived since CountConnections.
func (c *ConnCounter) Read() (uint64, error) {
	counters, err := readCounters(c.ns, c.table)
	if err != nil {
		return 0, fmt.Errorf("read the counter of port %d of %s: %w", c.port, c.ns.Name(), err)
	}
	for _, n := range counters {
		if n.Name == c.counter() {
			return n.Packets, nil
		}
	}
	return 0, fmt.Errorf("read the counter of port %d of %s: it is gone: %w", c.port, c.ns.Name(), ErrClosed)
}

// Close stops counting.
func (c *ConnCounter) Close() error {
	err := nftBatch(c.ns, func(conn *nftables.Conn) { conn.DelTable(c.table) })
	if err != nil {
		return fmt.Errorf("stop counting port %d of %s: %w", c.port, c.ns.Name(), err)
	}
	return nil
}

func (c *ConnCounter) counter() string { return "new" }
