package rotate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/spec"
)

// rotation is one that is under way.
type rotation struct {
	lab     Lab
	set     *authority.Set
	options Options
	plan    plan.Plan
	book    runbook
	status  control.Status // at the start
	started time.Time
	watch   *watch

	target authority.CA // Name alone while it is not made
	made   bool         // the target is there
	old    []authority.CA
	nodes  []*node

	mu     sync.Mutex // of what follows
	result Result
	failed map[string]bool      // nodes that could not be brought over
	held   map[string][]Command // while several nodes are at it: commands by node
}

// node is one node, and what a rotation has to do with it.
type node struct {
	name, uuid string
	plan       plan.Node
	// leave says why it gets no new certificate; "": it gets one. expel: it must not be trusted either.
	leave string
	expel bool
	ca    string // whose key signed its certificate; "": it has none, or could not be asked
	valid bool   // that CA's record holds it, and it is not revoked
	// onTarget: its certificate is one of the target that the target's record holds. registered: the registrar holds that certificate. attested: the
	// tenant accepted the node with it, and the verifier is content.
	onTarget, registered, attested bool
}

// over tells whether nothing is to be done with a node any more.
func (n *node) over() bool { return n.onTarget && n.registered && n.attested }

// prepare looks at the lab, and decides which CA it goes to and what is to be done with each node.
func prepare(ctx context.Context, l Lab, o Options) (*rotation, error) {
	r := &rotation{lab: l, options: o, started: time.Now(), failed: map[string]bool{}}
	status, err := l.Status(ctx)
	if err != nil {
		return nil, err
	}
	r.status = status
	if r.plan, err = l.Planned(); err != nil {
		return nil, err
	}
	if r.set, err = l.EKCAs(); err != nil {
		return nil, err
	}
	cas, err := r.set.List()
	if err != nil {
		return nil, err
	}
	survey, err := l.EK(ctx, control.EKOrder{Kind: control.EKSurvey})
	if err != nil {
		return nil, err
	}
	for _, e := range survey.Nodes {
		r.nodes = append(r.nodes, r.look(e, status))
	}
	if err := r.choose(cas); err != nil {
		return nil, err
	}
	for _, ca := range cas {
		if ca.Name != r.target.Name {
			r.old = append(r.old, ca)
		}
	}
	for _, n := range r.nodes {
		n.onTarget = n.ca == r.target.Name && n.valid
	}
	r.book = newRunbook(r.plan, cas[0], r.target.Name, o.Algorithm, r.pending())
	r.result = Result{
		Lab: l.Name(), Strategy: o.Strategy, To: r.target.Name, DryRun: o.DryRun, Started: r.started,
		From: []string{}, Commands: []Command{}, Refused: []Refusal{}, LeftOut: []LeftOut{},
	}
	r.result.ProofDue = r.target.Unproved && len(r.pending()) == 0 && !slices.ContainsFunc(r.old, authority.CA.Trusted)
	for _, ca := range r.old {
		if ca.Active || ca.Trusted() || slices.ContainsFunc(r.nodes, func(n *node) bool { return n.ca == ca.Name }) {
			r.result.From = append(r.result.From, ca.Name)
		}
	}
	for _, n := range r.nodes {
		if n.leave != "" {
			r.result.LeftOut = append(r.result.LeftOut, LeftOut{n.name, n.leave, n.expel})
		}
	}
	return r, nil
}

// choose decides which CA the rotation goes to.
func (r *rotation) choose(cas []authority.CA) error {
	name := r.options.To
	if name == "" {
		name = unfinished(cas, r.nodes)
	}
	if name == "" {
		name = unused(cas)
	}
	if name == "" {
		next, err := r.set.NextName()
		if err != nil {
			return err
		}
		name = next
	}
	r.target = authority.CA{Name: name}
	for _, ca := range cas {
		if ca.Name == name {
			r.target, r.made = ca, true
		}
	}
	if r.target.Leaked {
		return fmt.Errorf("the key of %s is in the wrong hands: rotate to another CA", name)
	}
	return nil
}

// unfinished is the active CA where a rotation to it is not over: it was not proved to be complete, one that was retired for it is still trusted, or a node has not come over.
func unfinished(cas []authority.CA, nodes []*node) string {
	active, rotated, pending := "", false, false
	for _, ca := range cas {
		if ca.Active && !ca.Leaked {
			active = ca.Name
			if ca.Unproved {
				return active
			}
		}
		rotated = rotated || ca.Retired
		pending = pending || ca.Retired && ca.Trusted()
	}
	for _, n := range nodes {
		pending = pending || n.leave == "" && (n.ca != active || !n.registered)
	}
	if !rotated || !pending {
		return ""
	}
	return active
}

// unused is the newest CA that was never active.
func unused(cas []authority.CA) string {
	for _, ca := range slices.Backward(cas) {
		if !ca.Active && !ca.Retired && !ca.Leaked {
			return ca.Name
		}
	}
	return ""
}

// look decides what is to be done with one node.
func (r *rotation) look(e control.EKNode, status control.Status) *node {
	n := &node{name: e.Node}
	n.plan, _ = r.plan.Node(e.Node)
	for _, s := range status.Nodes {
		if s.Name == e.Node {
			n.uuid, n.attested = s.UUID, e.Accepted && s.State == fleet.StateAttested
		}
	}
	n.ca, n.valid = e.CA, e.Standing == control.EKValid
	n.registered = e.Registered == control.EKSame
	why, meant := n.plan.RefusedOnPurpose(r.plan.Keylime.RequireEKCert)
	switch {
	case e.Error != "":
		// It may be brought over when it can be asked again; until then the proof fails.
	case e.Standing == control.EKForeign && meant, e.Serial == "" && meant:
		n.leave = why
	case e.Standing == control.EKForeign:
		n.leave, n.expel = "no CA of the lab signed its certificate, serial "+e.Serial, true
	case e.Standing == control.EKUnrecorded:
		n.leave, n.expel = fmt.Sprintf("the key of %s signed its certificate, serial %s, but %s has no record of it", e.CA, e.Serial, e.CA), true
	case e.Standing == control.EKRevoked:
		n.leave, n.expel = fmt.Sprintf("%s has revoked its certificate, serial %s", e.CA, e.Serial), true
	}
	return n
}

// parallel is how many nodes are brought over at once. On Kubernetes each order opens the lab's folder for itself, and writes there what it learnt.
func (r *rotation) parallel() int {
	switch {
	case r.options.Parallel > 0:
		return r.options.Parallel
	case r.plan.Substrate == string(spec.SubstrateKind):
		return 1
	}
	return 4
}

// names joins the names of nodes.
func names(nodes []*node) string {
	var list []string
	for _, n := range nodes {
		list = append(list, n.name)
	}
	return strings.Join(list, ", ")
}
