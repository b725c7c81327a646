package control

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Fault asks the lab to break, or to mend, one thing.
type Fault struct {
	Kind  string   `json:"kind"` // one of Faults
	Nodes []string `json:"nodes,omitempty"`
	Clear bool     `json:"clear,omitempty"`
}

// FaultKind is what can be said of a kind of fault without a lab.
type FaultKind struct {
	Kind  string
	Nodes int    // how many nodes it is about
	About string // what it does
}

// Names of the kinds of fault.
const (
	FaultFlatNetwork  = "flat-network"
	FaultOpenRouter   = "open-router"
	FaultSwappedRoute = "swapped-route"
	FaultDeadAgent    = "dead-agent"
	FaultPartition    = "partition"
	FaultDeadTPM      = "dead-tpm"
)

// Faults are all kinds of fault.
var Faults = []FaultKind{
	{Kind: FaultFlatNetwork, About: "join services and cluster network to one layer-2 segment"},
	{Kind: FaultOpenRouter, About: "let the router forward everything"},
	{Kind: FaultSwappedRoute, Nodes: 2, About: "lead the hostnames of two nodes to each other's agent"},
	{Kind: FaultDeadAgent, Nodes: 1, About: "stop a node's agent"},
	{Kind: FaultPartition, Nodes: 1, About: "cut a node off from everything"},
	{Kind: FaultDeadTPM, Nodes: 1, About: "kill a node's TPM; mended, the node is enrolled anew"},
}

// FaultKindOf finds a kind by its name.
func FaultKindOf(name string) (FaultKind, bool) {
	i := slices.IndexFunc(Faults, func(k FaultKind) bool { return k.Kind == name })
	if i < 0 {
		return FaultKind{}, false
	}
	return Faults[i], true
}

// Check tells what is wrong with a fault, as far as that can be said without a lab: whether nodes of these names exist, and whether the
// lab's substrate can do it, the lab says. names are the kinds to offer for one that does not exist.
func (f Fault) Check(names ...string) error {
	kind, ok := FaultKindOf(f.Kind)
	if !ok {
		if len(names) == 0 {
			for _, k := range Faults {
				names = append(names, k.Kind)
			}
		}
		return fmt.Errorf("there is no fault %q; there are %s", f.Kind, strings.Join(slices.Sorted(slices.Values(names)), ", "))
	}
	if len(f.Nodes) != kind.Nodes {
		return fmt.Errorf("fault %s needs %d node names, not %d", f.Kind, kind.Nodes, len(f.Nodes))
	}
	if kind.Nodes == 2 && f.Nodes[0] == f.Nodes[1] {
		return fmt.Errorf("fault %s needs two different nodes, not %s twice", f.Kind, f.Nodes[0])
	}
	return nil
}

// Mark is what a lab had counted at one moment. What could not be asked then is missing.
type Mark struct {
	Time         time.Time         `json:"time"`
	Router       map[string]uint64 `json:"router,omitempty"`       // packets, by counter
	Forwarded    map[string]uint64 `json:"forwarded,omitempty"`    // connections that the ingress passed on, by hostname
	Refused      uint64            `json:"refused"`                // connections that it refused for their name
	Arrivals     map[string]uint64 `json:"arrivals,omitempty"`     // new connections at each agent's port, by node
	DNS          map[string]uint64 `json:"dns,omitempty"`          // answers, by code
	Attestations map[string]int    `json:"attestations,omitempty"` // the verifier's attestation_count, by node
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
