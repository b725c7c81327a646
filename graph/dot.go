package graph

import (
	"fmt"
	"io"
	"strings"

	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/report"
)

// dotText joins lines to a quoted string of DOT.
func dotText(lines ...string) string {
	var out []string
	for _, l := range lines {
		if l != "" {
			out = append(out, strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ").Replace(report.Clean(l)))
		}
	}
	return `"` + strings.Join(out, `\n`) + `"`
}

// dotColors are fill and border of the classes of states.
var dotColors = map[string][2]string{
	"good": {"#a6dcb6", "#1a7f37"}, "wait": {"#cfe0f5", "#3f75b5"}, "bad": {"#f6b8b1", "#cf222e"}, "other": {"#e4e8ec", "#7a848f"},
}

func dotColor(state string) string {
	if state == "" {
		return ""
	}
	c := dotColors[stateClass(state)]
	return fmt.Sprintf(`, style="filled,rounded", fillcolor="%s", color="%s"`, c[0], c[1])
}

// DOT writes the graph in Graphviz's language.
func (g Graph) DOT(w io.Writer) error {
	var b strings.Builder
	ids := g.ids()
	fmt.Fprintf(&b, "digraph keylab {\n  label=%s; labelloc=t; rankdir=LR; compound=true; ranksep=1; nodesep=0.25;\n", dotText(g.heading()))
	b.WriteString("  fontname=\"Helvetica\";\n  node [shape=box, style=rounded, fontname=\"Helvetica\", fontsize=11];\n  edge [fontname=\"Helvetica\", fontsize=10, color=\"#0969da\"];\n")
	fmt.Fprintf(&b, "  subgraph cluster_services {\n    label=%s; style=\"rounded,dashed\";\n", dotText(g.Services.Name+" network", g.Services.Prefix))
	b.WriteString(anchor("services"))
	for _, h := range g.Hosts {
		fmt.Fprintf(&b, "    %s [label=%s%s];\n", ids[h.Name], dotText(append([]string{h.Name}, append(h.About, h.State)...)...), dotColor(h.State))
	}
	b.WriteString("  }\n")
	fmt.Fprintf(&b, "  %s [shape=octagon, style=solid, label=%s];\n", ids[g.Router.Name], dotText(append([]string{"router", "all that no arrow shows is dropped"}, g.Router.State)...))
	fmt.Fprintf(&b, "  subgraph cluster_cluster {\n    label=%s; style=\"rounded,dashed\";\n", dotText(g.Cluster.Name+" network", g.Cluster.Prefix, g.Cluster.Note))
	b.WriteString(anchor("cluster"))
	if g.Ingress != nil {
		fmt.Fprintf(&b, "    %s [label=%s%s];\n", ids[g.Ingress.Name], dotText("ingress", strings.Join(g.Ingress.About, " "), g.Ingress.State), dotColor(g.Ingress.State))
	}
	groups := g.groups()
	for _, n := range groups {
		fmt.Fprintf(&b, "    %s [label=%s%s];\n", ids[n.Name], dotText(n.title(), n.about(), "agent "+n.Agent+", "+n.tpm(), n.standing()), dotColor(n.State))
	}
	b.WriteString("  }\n")
	for i, c := range g.CAs {
		fmt.Fprintf(&b, "  ca%d [shape=note, style=solid, color=\"#9a6700\", label=%s];\n", i+1, dotText(append([]string{c.Name}, c.Chain...)...))
	}
	member := map[string]string{g.Services.Name: "anchor_services", g.Cluster.Name: "anchor_cluster"}
	fmt.Fprintf(&b, "  anchor_services -> %s [dir=none, style=bold, color=\"#59636e\", ltail=cluster_services];\n", ids[g.Router.Name])
	fmt.Fprintf(&b, "  %s -> anchor_cluster [dir=none, style=bold, color=\"#59636e\", lhead=cluster_cluster];\n", ids[g.Router.Name])
	for _, f := range g.Flows {
		// All edges are written from the services to the cluster, for Graphviz to put the one left of the other; the arrow tells.
		left, right, arrow := f.From, f.To, ""
		if g.side(f.To) == plan.Services {
			left, right, arrow = f.To, f.From, ", dir=back"
		}
		tail, attributes := dotEnd(left, "ltail", ids, member)
		head, more := dotEnd(right, "lhead", ids, member)
		if tail != "" && head != "" {
			fmt.Fprintf(&b, "  %s -> %s [label=%s%s%s%s];\n", tail, head, dotText(f.Label()), arrow, attributes, more)
		}
	}
	if g.Ingress != nil && !g.Push() {
		for _, n := range groups {
			fmt.Fprintf(&b, "  %s -> %s;\n", ids[g.Ingress.Name], ids[n.Name])
		}
	}
	for i, c := range g.CAs {
		for _, n := range groups {
			if n.CA == c.Name {
				fmt.Fprintf(&b, "  ca%d -> %s [style=dashed, color=\"#9a6700\", constraint=false];\n", i+1, ids[n.Name])
			}
		}
		if c.Trusted {
			fmt.Fprintf(&b, "  ca%d -> %s [style=dashed, color=\"#9a6700\", label=\"trusted\", constraint=false, lhead=cluster_services];\n", i+1, member[g.Services.Name])
		}
	}
	b.WriteString("}\n")
	return write(w, "DOT", g.Lab, b.String())
}

// anchor is an unseen point in a network, for edges that end at the network as a whole: an edge needs a node, and lhead or ltail cut it off
// at the network's border.
func anchor(network string) string {
	return fmt.Sprintf("    anchor_%s [shape=point, style=invis, width=0.01, label=\"\"];\n", network)
}

// dotEnd is the host at one end of a flow, with the attribute that makes the edge end at its network's border.
func dotEnd(name, attribute string, ids, member map[string]string) (host, attributes string) {
	if m, ok := member[name]; ok {
		return m, fmt.Sprintf(", %s=%s", attribute, strings.Replace(ids[name], "net_", "cluster_", 1))
	}
	return ids[name], ""
}

// heading says of which lab the picture is.
func (g Graph) heading() string {
	text := fmt.Sprintf("lab %s on %s, %s model, Keylime %s", g.Lab, g.Substrate, g.Mode, g.Keylime)
	if g.State != "" {
		text += ": " + g.State
	}
	return text
}
