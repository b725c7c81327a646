package graph

import (
	"fmt"
	"slices"
)

// maxSingle is up to how many nodes each is drawn by itself.
const maxSingle = 12

// group is one node, or several that are drawn as one because nothing in the picture tells them apart.
type group struct {
	Node           // the first
	Names []string // of all of them
}

func (g group) size() int { return len(g.Names) }

// groups are the nodes as they are drawn: each by itself, or, where they are many, those that are alike as one. The largest comes first.
func (g Graph) groups() []group {
	var out []group
	for _, n := range g.Nodes {
		same := -1
		if len(g.Nodes) > maxSingle {
			same = slices.IndexFunc(out, func(o group) bool {
				return o.State == n.State && o.CA == n.CA && o.Note == n.Note && o.Agent == n.Agent && o.EK == n.EK
			})
		}
		if same < 0 {
			out = append(out, group{Node: n, Names: []string{n.Name}})
			continue
		}
		out[same].Names = append(out[same].Names, n.Name)
	}
	if len(g.Nodes) > maxSingle {
		slices.SortStableFunc(out, func(a, b group) int { return b.size() - a.size() })
	}
	return out
}

// title is the name, or how many there are.
func (g group) title() string {
	if g.size() > 1 {
		return fmt.Sprintf("%d nodes", g.size())
	}
	return g.Name
}

// about is what is below the title: the address, or which nodes they are.
func (g group) about() string {
	switch last := g.Names[len(g.Names)-1]; g.size() {
	case 1:
		return g.Address
	case 2:
		return g.Name + ", " + last
	default:
		return g.Name + " … " + last
	}
}

// tpm is what is said of the TPM.
func (g group) tpm() string {
	if g.Note != "" {
		return g.Note
	}
	return "EK " + g.EK
}

// standing is the state, with how often a single node was attested.
func (g group) standing() string {
	if g.State == "attested" && g.size() == 1 && g.Attestations > 0 {
		return fmt.Sprintf("attested ×%d", g.Attestations)
	}
	return g.State
}

// stateClass sorts states into what is well, on its way, not well, off, and other.
func stateClass(state string) string {
	switch state {
	case "attested", "running":
		return "good"
	case "starting", "registered", "enrolled", "leaving":
		return "wait"
	case "failed", "refused", "overdue", "tpm dead", "agent dead", "dead", "degraded":
		return "bad"
	}
	return "other"
}
