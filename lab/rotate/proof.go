package rotate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/report"
)

// proofPoint is the heading of the checks that the rotation makes itself.
const proofPoint = "rotation"

// proof has the lab prove that the rotation is complete. Of its own checks those count that are about registration, EK certificates and liveness, of all
// nodes but those that were left out.
func (r *rotation) proof(ctx context.Context) (report.Result, error) {
	all, err := r.lab.Verify(ctx)
	if err != nil {
		return report.Result{}, err
	}
	proof := all
	proof.Checks = slices.DeleteFunc(slices.Clone(all.Checks), func(c report.Check) bool {
		point, _, _ := strings.Cut(c.Point, " ")
		return !slices.Contains([]string{"1", "2", "5"}, point) || r.leftOut(c)
	})
	status, err := r.lab.Status(ctx)
	if err != nil {
		return report.Result{}, err
	}
	for _, n := range r.nodes {
		if !n.expel {
			continue
		}
		c := report.Check{ID: "expelled", Point: proofPoint, Subject: n.name, Status: report.Fail, Error: "the lab says nothing of this node"}
		for _, s := range status.Nodes {
			switch {
			case s.Name != n.name:
			case s.State == fleet.StateAttested || s.AttestationCount > 0:
				c.Error = fmt.Sprintf("the verifier trusts it, although %s", n.leave)
			default:
				c.Status, c.Error, c.Evidence = report.Pass, "", fmt.Sprintf("the verifier does not know it: %s", n.leave)
			}
		}
		proof.Checks = append(proof.Checks, c)
	}
	proof.Checks = append(proof.Checks, r.complete())
	proof.Duration = time.Since(all.Started)
	return proof, nil
}

// complete checks that every node that should was brought over.
func (r *rotation) complete() report.Check {
	c := report.Check{ID: "brought-over", Point: proofPoint, Subject: "all nodes", Status: report.Pass}
	var over, not []*node
	for _, n := range r.nodes {
		switch {
		case n.leave != "":
		case n.over():
			over = append(over, n)
		default:
			not = append(not, n)
		}
	}
	c.Evidence = fmt.Sprintf("%d nodes have a certificate of %s, are registered with it and were attested since", len(over), r.target.Name)
	if len(not) > 0 || len(over) == 0 {
		c.Status = report.Fail
		c.Error = fmt.Sprintf("not brought over to %s: %s; another `keylab ek rotate` goes on with them", r.target.Name, names(not))
		if len(over)+len(not) == 0 {
			c.Error = "no node could be brought over: all were left out"
		}
	}
	return c
}

// leftOut tells whether a check is about a node that was left out, or about all nodes where some were: those compare what the registrar holds of each.
func (r *rotation) leftOut(c report.Check) bool {
	return slices.ContainsFunc(r.nodes, func(n *node) bool {
		return n.leave != "" && (c.Subject == n.name || n.expel && strings.HasPrefix(c.ID, "distinct-"))
	})
}
