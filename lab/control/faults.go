package control

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fault asks the lab to break, or to mend, one thing.
type Fault struct {
	Kind      string            `json:"kind"` // one of Faults
	Nodes     []string          `json:"nodes,omitempty"`
	Component string            `json:"component,omitempty"` // registrar or verifier, where it is about a service
	Options   map[string]string `json:"options,omitempty"`   // beside their defaults
	Clear     bool              `json:"clear,omitempty"`
	// Leave says, with Clear, that the verifier is not to be told anything: nodes that it has given up stay so.
	Leave bool `json:"leave,omitempty"`
}

// FaultKind is what can be said of a kind of fault without a lab.
type FaultKind struct {
	Kind       string
	About      string   // what it does
	Nodes      int      // how many nodes it is about
	Components []string // those of which it is about one; nil: about none
	Options    []FaultOption
	Momentary  bool // over once it was inflicted: there is nothing to mend
}

// FaultOption is one setting of a kind of fault.
type FaultOption struct {
	Name    string
	Type    OptionType
	Default string
	Values  []string // of a choice
	About   string
}

// OptionType says what values an option takes.
type OptionType string

// The types of options.
const (
	OptionDuration OptionType = "duration" // as Go has it: 200ms, 1.5s; not negative
	OptionOffset   OptionType = "offset"   // a duration of ten seconds or more, ahead or (with a minus sign) behind
	OptionPercent  OptionType = "percent"  // 0 to 100, with or without the sign
	OptionChoice   OptionType = "choice"   // one of its values
)

// Names of the kinds of fault.
const (
	FaultFlatNetwork    = "flat-network"
	FaultOpenRouter     = "open-router"
	FaultSwappedRoute   = "swapped-route"
	FaultDeadAgent      = "dead-agent"
	FaultAgentKilled    = "agent-killed"
	FaultAgentRestart   = "agent-restart"
	FaultPartition      = "partition"
	FaultDeadTPM        = "dead-tpm"
	FaultServiceDown    = "service-down"
	FaultServiceKilled  = "service-killed"
	FaultServiceRestart = "service-restart"
	FaultDatabaseFull   = "database-full"
	FaultClockSkew      = "clock-skew"
	FaultLatency        = "latency"
	FaultLoss           = "loss"
	FaultNAT            = "nat"
	FaultDNSFailure     = "dns-failure"
	FaultUnknownName    = "unknown-name"
	FaultIngressDown    = "ingress-down"
	FaultIngressRestart = "ingress-restart"
	FaultMovedAddress   = "loadbalancer-moved"
)

// How a DNS server fails.
const (
	DNSServfail = "servfail" // it answers every question with SERVFAIL
	DNSNothing  = "nothing"  // it answers no question
)

// services are the components that are a process of Keylime's.
var services = []string{"registrar", "verifier"}

// Faults are all kinds of fault. Which of them a lab can do depends on its substrate and on its mode.
var Faults = []FaultKind{
	{Kind: FaultFlatNetwork, About: "join services and cluster network to one layer-2 segment"},
	{Kind: FaultOpenRouter, About: "let the router forward everything"},
	{Kind: FaultSwappedRoute, Nodes: 2, About: "lead the hostnames of two nodes to each other's agent"},
	{Kind: FaultUnknownName, Nodes: 1, About: "let the ingress forget a node's hostname"},
	{Kind: FaultIngressDown, About: "stop the ingress"},
	{Kind: FaultIngressRestart, Momentary: true, About: "stop the ingress and start it again"},
	{Kind: FaultMovedAddress, About: "give the load balancer another address; DNS and the router's rules follow"},
	{Kind: FaultDNSFailure, About: "let the services' DNS server fail", Options: []FaultOption{
		{Name: "answer", Type: OptionChoice, Values: []string{DNSServfail, DNSNothing}, Default: DNSServfail, About: "servfail, or nothing at all"},
	}},
	{Kind: FaultPartition, Nodes: 1, About: "cut a node off from everything"},
	{Kind: FaultLatency, Nodes: 1, About: "hold up all packets of a node, in each direction", Options: []FaultOption{
		{Name: "delay", Type: OptionDuration, Default: "200ms", About: "by how much"},
		{Name: "jitter", Type: OptionDuration, Default: "0s", About: "by how much that varies, more or less"},
	}},
	{Kind: FaultLoss, Nodes: 1, About: "lose packets of a node, in each direction", Options: []FaultOption{
		{Name: "percent", Type: OptionPercent, Default: "30", About: "how many"},
	}},
	{Kind: FaultNAT, Nodes: 1, About: "put a node behind a NAT router of its own: its connections get out, none gets in"},
	{Kind: FaultDeadAgent, Nodes: 1, About: "stop a node's agent in order"},
	{Kind: FaultAgentKilled, Nodes: 1, About: "kill a node's agent: connections under way break off"},
	{Kind: FaultAgentRestart, Nodes: 1, Momentary: true, About: "stop a node's agent and start it again"},
	{Kind: FaultDeadTPM, Nodes: 1, About: "kill a node's TPM; mended, the node is enrolled anew"},
	{Kind: FaultServiceDown, Components: services, About: "stop a service of Keylime's in order; mended, it has its database still"},
	{Kind: FaultServiceKilled, Components: services, About: "kill a service of Keylime's (SIGKILL)"},
	{Kind: FaultDatabaseFull, Components: services, About: "fill the disk that a service of Keylime's has its database on; the first time the service is restarted on a disk of its own"},
	{Kind: FaultClockSkew, Components: services, About: "start a service of Keylime's again with a wrong clock", Options: []FaultOption{
		{Name: "by", Type: OptionOffset, Default: "26h", About: "how far it is ahead, or behind with a minus sign"},
	}},
	{Kind: FaultServiceRestart, Components: services, Momentary: true, About: "stop a service of Keylime's and start it again"},
}

// FaultKindOf finds a kind by its name.
func FaultKindOf(name string) (FaultKind, bool) {
	i := slices.IndexFunc(Faults, func(k FaultKind) bool { return k.Kind == name })
	if i < 0 {
		return FaultKind{}, false
	}
	return Faults[i], true
}

// FaultNames are the names of all kinds, in the order of Faults.
func FaultNames() []string {
	names := make([]string, len(Faults))
	for i, k := range Faults {
		names[i] = k.Kind
	}
	return names
}

// Check tells what is wrong with a fault, as far as that can be said without a lab: whether there are nodes of these names, and whether the
// lab can do it at all, the lab says.
func (f Fault) Check() error {
	kind, ok := FaultKindOf(f.Kind)
	if !ok {
		return fmt.Errorf("there is no fault %q; there are %s", f.Kind, strings.Join(FaultNames(), ", "))
	}
	if len(f.Nodes) != kind.Nodes {
		return fmt.Errorf("fault %s needs %d node names, not %d", f.Kind, kind.Nodes, len(f.Nodes))
	}
	if kind.Nodes == 2 && f.Nodes[0] == f.Nodes[1] {
		return fmt.Errorf("fault %s needs two different nodes, not %s twice", f.Kind, f.Nodes[0])
	}
	switch {
	case len(kind.Components) == 0 && f.Component != "":
		return fmt.Errorf("fault %s is about no component, but %s was given", f.Kind, f.Component)
	case len(kind.Components) > 0 && !slices.Contains(kind.Components, f.Component):
		return fmt.Errorf("fault %s needs a component, %s, not %q", f.Kind, strings.Join(kind.Components, " or "), f.Component)
	}
	for name, value := range f.Options {
		o, ok := kind.option(name)
		if !ok {
			return fmt.Errorf("fault %s has no option %q; it has %s", f.Kind, name, kind.optionNames())
		}
		if err := o.check(value); err != nil {
			return fmt.Errorf("fault %s: option %s: %w", f.Kind, name, err)
		}
	}
	if f.Clear && kind.Momentary {
		return fmt.Errorf("fault %s is over once it was inflicted: there is nothing to mend", f.Kind)
	}
	if f.Leave && !f.Clear {
		return fmt.Errorf("fault %s: to leave the verifier alone is a way to mend: it needs clear", f.Kind)
	}
	return nil
}

func (k FaultKind) option(name string) (FaultOption, bool) {
	i := slices.IndexFunc(k.Options, func(o FaultOption) bool { return o.Name == name })
	if i < 0 {
		return FaultOption{}, false
	}
	return k.Options[i], true
}

func (k FaultKind) optionNames() string {
	var names []string
	for _, o := range k.Options {
		names = append(names, o.Name)
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// Option is an option's value, or its default.
func (f Fault) Option(name string) string {
	if v, ok := f.Options[name]; ok {
		return v
	}
	kind, _ := FaultKindOf(f.Kind)
	o, _ := kind.option(name)
	return o.Default
}

// Duration is the value of an option of that type. The fault has been checked.
func (f Fault) Duration(name string) time.Duration {
	d, _ := time.ParseDuration(f.Option(name))
	return d
}

// Percent is the value of an option of that type, 0 to 100. The fault has been checked.
func (f Fault) Percent(name string) float64 {
	p, _ := strconv.ParseFloat(strings.TrimSuffix(f.Option(name), "%"), 64)
	return p
}

// minOffset is the smallest offset of a clock that can be told from the time that a question takes.
const minOffset = 10 * time.Second

func (o FaultOption) check(value string) error {
	switch o.Type {
	case OptionChoice:
		if !slices.Contains(o.Values, value) {
			return fmt.Errorf("%q is none of %s", value, strings.Join(o.Values, ", "))
		}
	case OptionDuration:
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			return fmt.Errorf("%q is no duration, such as 200ms or 1.5s", value)
		}
	case OptionOffset:
		d, err := time.ParseDuration(value)
		if err != nil || d.Abs() < minOffset {
			return fmt.Errorf("%q is no offset of %s or more, such as 26h or -26h", value, minOffset)
		}
	case OptionPercent:
		p, err := strconv.ParseFloat(strings.TrimSuffix(value, "%"), 64)
		if err != nil || !(p >= 0 && p <= 100) {
			return fmt.Errorf("%q is no percentage from 0 to 100", value)
		}
	}
	return nil
}

// Mark is what a lab had counted at one moment. What could not be asked then is missing.
type Mark struct {
	Time         time.Time         `json:"time"`
	Ingress      netip.AddrPort    `json:"ingress,omitzero"`       // the load balancer's address
	Router       map[string]uint64 `json:"router,omitempty"`       // packets, by counter
	Forwarded    map[string]uint64 `json:"forwarded,omitempty"`    // connections that the ingress passed on, by hostname
	Refused      uint64            `json:"refused"`                // connections that it refused for their name
	Arrivals     map[string]uint64 `json:"arrivals,omitempty"`     // new connections at each agent's port, by node
	DNS          map[string]uint64 `json:"dns,omitempty"`          // answers, by code
	Attestations map[string]int    `json:"attestations,omitempty"` // the verifier's attestation_count, by node
	Logs         map[string]int64  `json:"logs,omitempty"`         // where they end, by service; in bytes or in time, as the substrate counts
	Processes    map[string]string `json:"processes,omitempty"`    // which process it was, by component or by the agent's node: another one after each start
}

// Proof is what was seen of a fault.
type Proof struct {
	Fired    bool   `json:"fired"`    // something was seen that only the fault can have caused
	Evidence string `json:"evidence"` // what was seen, with the figures; of a fault that has not fired, what was seen instead
}

// question is the body of a request for a proof.
type question struct {
	Fault Fault `json:"fault"`
	Since Mark  `json:"since"`
}
