package netlab

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Names of the counters that every router has, besides one for each rule and direction.
const (
	CounterEstablished = "established"   // packets of connections that a rule once allowed, both ways
	CounterDropped     = "dropped"       // all packets that the router did not forward, any direction
	CounterInput       = "input-dropped" // packets for the router itself that it did not take
	CounterInputEcho   = "input-echo"    // pings of the router itself
	CounterOpenAll     = "open-all"      // packets let through only because of OpenAll
	routerTable        = "keylab"        // inet keylab
	droppedPrefix      = "dropped-"      // a direction's counter is this and its name
	maxCounterName     = 128             // the kernel takes 255 bytes; nobody wants to read that
	chainForward       = "forward"       // packets from one network to another
	chainInput         = "input"         // packets for the router itself
)

var counterName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*$`) // what the nft tool can read back

// Rule lets new connections through the router; replies follow by connection
// tracking. There is no NAT: the other side sees the real source address.
type Rule struct {
	Name     string       `json:"name"`           // names its counter: letters, digits, "-", "_" and "."
	From     netip.Prefix `json:"from"`           // IPv4 source network
	To       netip.Prefix `json:"to"`             // IPv4 destination network or address
	Protocol string       `json:"protocol"`       // tcp, udp or icmp
	Port     uint16       `json:"port,omitempty"` // destination port; 0 means any, and is the only one for icmp
}

// Direction is a way through the router whose dropped packets are counted
// under "dropped-" and Name, such as "services-to-cluster".
type Direction struct {
	Name string       `json:"name"`
	From netip.Prefix `json:"from"`
	To   netip.Prefix `json:"to"`
}

// Counter is one named counter of a router.
type Counter struct {
	Name    string `json:"name"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"` // of whole IP packets
}

// Router is the allow list in a forwarding host's namespace: what no rule
// names is dropped without an answer. It lives in the nftables table
// `inet keylab`, which `nft list table inet keylab` shows.
type Router struct {
	ns         *Namespace
	directions []Direction

	mu       sync.Mutex
	rules    []Rule
	open     bool
	counters map[string]bool // names of the counter objects in the kernel
}

// ApplyRules puts the allow list in force in the namespace, which forwards
// nothing else from then on. Every rule has a counter of its own name, which
// counts the packets that began a connection: one for each TCP connection, if
// no SYN is lost. An earlier router in the namespace is replaced as a whole.
func ApplyRules(ns *Namespace, rules []Rule, directions ...Direction) (*Router, error) {
	r := &Router{ns: ns, directions: slices.Clone(directions), counters: map[string]bool{}}
	if err := r.check(rules); err != nil {
		return nil, fmt.Errorf("router %s: %w", ns.Name(), err)
	}
	r.rules = slices.Clone(rules)
	err := r.batch(func(c *nftables.Conn) {
		t := r.table()
		// Add, delete, add: the delete alone would fail where there is none.
		c.AddTable(t)
		c.DelTable(t)
		c.AddTable(t)
		policy := nftables.ChainPolicyDrop
		c.AddChain(&nftables.Chain{Name: chainForward, Table: t, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &policy})
		c.AddChain(&nftables.Chain{Name: chainInput, Table: t, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Policy: &policy})
		r.fill(c)
	})
	if err != nil {
		return nil, fmt.Errorf("router %s: apply its rules (is the kernel module nf_tables there?): %w", ns.Name(), err)
	}
	return r, nil
}

// SetRules replaces the allow list in one step: no packet meets a router
// without rules. Counters of rules whose name stays keep their values;
// connections already tracked go on.
func (r *Router) SetRules(rules []Rule) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.check(rules); err != nil {
		return fmt.Errorf("router %s: %w", r.ns.Name(), err)
	}
	return r.swap(slices.Clone(rules), r.open)
}

// OpenAll lets everything through in every direction until Restore: the fault
// "flat network". What no rule would have let through is counted as "open-all",
// so that the fault can be seen at work.
func (r *Router) OpenAll() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.swap(r.rules, true)
}

// Restore puts the allow list in force again after OpenAll.
func (r *Router) Restore() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.swap(r.rules, false)
}

// Rules returns the allow list, and whether OpenAll has it out of force.
func (r *Router) Rules() (rules []Rule, open bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.rules), r.open
}

// swap replaces the rules in the kernel, and remembers them only if that worked.
func (r *Router) swap(rules []Rule, open bool) error {
	oldRules, oldOpen, oldCounters := r.rules, r.open, r.counters
	r.rules, r.open, r.counters = rules, open, map[string]bool{}
	for name := range oldCounters {
		r.counters[name] = true
	}
	err := r.batch(func(c *nftables.Conn) {
		t := r.table()
		c.FlushChain(&nftables.Chain{Name: chainForward, Table: t})
		c.FlushChain(&nftables.Chain{Name: chainInput, Table: t})
		r.fill(c)
	})
	if err != nil {
		r.rules, r.open, r.counters = oldRules, oldOpen, oldCounters
		return fmt.Errorf("router %s: replace its rules: %w", r.ns.Name(), err)
	}
	return nil
}

// fill writes both chains, adds the counters they lack and removes those of
// rules that are gone.
func (r *Router) fill(c *nftables.Conn) {
	t := r.table()
	wanted := []string{CounterEstablished, CounterDropped, CounterInput, CounterInputEcho, CounterOpenAll}
	for _, rule := range r.rules {
		wanted = append(wanted, rule.Name)
	}
	for _, d := range r.directions {
		wanted = append(wanted, droppedPrefix+d.Name)
	}
	for _, name := range wanted {
		if !r.counters[name] {
			c.AddObj(&nftables.CounterObj{Table: t, Name: name})
			r.counters[name] = true
		}
	}
	add := func(chain string, exprs ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: t, Chain: &nftables.Chain{Name: chain, Table: t}, Exprs: slices.Concat(exprs...)})
	}
	known := ctState(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	add(chainForward, known, count(CounterEstablished), accept())
	for _, rule := range r.rules {
		add(chainForward, sourceIn(rule.From), destinationIn(rule.To), protocol(rule.number()), destinationPort(rule.Port),
			ctState(expr.CtStateBitNEW), count(rule.Name), accept())
	}
	if r.open {
		add(chainForward, count(CounterOpenAll), accept())
	}
	add(chainForward, count(CounterDropped))
	for _, d := range r.directions {
		add(chainForward, sourceIn(d.From), destinationIn(d.To), count(droppedPrefix+d.Name), drop())
	}

	add(chainInput, fromLink("lo"), accept())
	add(chainInput, known, accept())
	add(chainInput, protocol(unix.IPPROTO_ICMP), icmpEchoRequest(), count(CounterInputEcho), accept())
	add(chainInput, count(CounterInput))

	for name := range r.counters {
		if !slices.Contains(wanted, name) {
			c.DeleteObject(&nftables.CounterObj{Table: t, Name: name})
			delete(r.counters, name)
		}
	}
}

// Counters reads all counters, sorted by name. The rules' counters are among
// them under the rules' names.
func (r *Router) Counters() ([]Counter, error) {
	counters, err := readCounters(r.ns, r.table())
	if err != nil {
		return nil, fmt.Errorf("router %s: read its counters: %w", r.ns.Name(), err)
	}
	return counters, nil
}

// Counter reads one counter by its name.
func (r *Router) Counter(name string) (Counter, error) {
	counters, err := r.Counters()
	if err != nil {
		return Counter{}, err
	}
	for _, c := range counters {
		if c.Name == name {
			return c, nil
		}
	}
	return Counter{}, fmt.Errorf("router %s: no counter %q", r.ns.Name(), name)
}

func (r *Router) table() *nftables.Table {
	return &nftables.Table{Name: routerTable, Family: nftables.TableFamilyINet}
}

// batch sends the commands that f collects to the kernel as one transaction.
func (r *Router) batch(f func(*nftables.Conn)) error {
	return nftBatch(r.ns, f)
}

// check reports every fault of the rules and directions at once.
func (r *Router) check(rules []Rule) error {
	var errs []error
	seen := map[string]bool{CounterEstablished: true, CounterDropped: true, CounterInput: true, CounterInputEcho: true, CounterOpenAll: true}
	checkName := func(kind, name, counter string) {
		switch {
		case !counterName.MatchString(name) || len(name) > maxCounterName:
			errs = append(errs, fmt.Errorf("%s %q: want a letter, then letters, digits, %q, at most %d in all", kind, name, "-_.", maxCounterName))
		case seen[counter]:
			errs = append(errs, fmt.Errorf("%s %q: a counter %q is there already", kind, name, counter))
		}
		seen[counter] = true
	}
	for _, d := range r.directions {
		checkName("direction", d.Name, droppedPrefix+d.Name)
		if !isIPv4Net(d.From) || !isIPv4Net(d.To) {
			errs = append(errs, fmt.Errorf("direction %q: from %v to %v: want two IPv4 networks", d.Name, d.From, d.To))
		}
	}
	for _, rule := range rules {
		checkName("rule", rule.Name, rule.Name)
		if strings.HasPrefix(rule.Name, droppedPrefix) {
			errs = append(errs, fmt.Errorf("rule %q: names that start with %q are the directions'", rule.Name, droppedPrefix))
		}
		if !isIPv4Net(rule.From) || !isIPv4Net(rule.To) {
			errs = append(errs, fmt.Errorf("rule %q: from %v to %v: want two IPv4 networks", rule.Name, rule.From, rule.To))
		}
		if rule.number() == 0 {
			errs = append(errs, fmt.Errorf("rule %q: protocol %q: want tcp, udp or icmp", rule.Name, rule.Protocol))
		}
		if rule.Protocol == "icmp" && rule.Port != 0 {
			errs = append(errs, fmt.Errorf("rule %q: icmp has no port %d", rule.Name, rule.Port))
		}
	}
	return errors.Join(errs...)
}

// number is the rule's IP protocol number, 0 if it is none of the three.
func (r Rule) number() byte {
	switch r.Protocol {
	case "tcp":
		return unix.IPPROTO_TCP
	case "udp":
		return unix.IPPROTO_UDP
	case "icmp":
		return unix.IPPROTO_ICMP
	}
	return 0
}

func isIPv4Net(p netip.Prefix) bool { return p.IsValid() && p.Addr().Is4() && p == p.Masked() }
