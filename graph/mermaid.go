package graph

import (
	"fmt"
	"io"
	"strings"

	"keylab.dev/keylab/report"
)

// mermaidEscapes keep a text a text: Mermaid reads # as the start of an entity, and < as that of HTML.
var mermaidEscapes = strings.NewReplacer("#", "#35;", `"`, "#quot;", "<", "#lt;", ">", "#gt;", "&", "#amp;", "`", "#96;", "\n", " ", "|", "#124;")

// mermaidText joins lines to a quoted label.
func mermaidText(lines ...string) string {
	var out []string
	for _, l := range lines {
		if l != "" {
			out = append(out, mermaidEscapes.Replace(report.Clean(l)))
		}
	}
	return `"` + strings.Join(out, "<br/>") + `"`
}

// Mermaid writes the graph as a Mermaid flowchart.
func (g Graph) Mermaid(w io.Writer) error {
	var b strings.Builder
	ids := g.ids()
	fmt.Fprintf(&b, "flowchart LR\n")
	fmt.Fprintf(&b, "  subgraph %s[%s]\n", ids[g.Services.Name], mermaidText(g.Services.Name+" network", g.Services.Prefix))
	for _, h := range g.Hosts {
		fmt.Fprintf(&b, "    %s[%s]\n", ids[h.Name], mermaidText(append([]string{h.Name}, append(h.About, h.State)...)...))
	}
	fmt.Fprintf(&b, "  end\n")
	fmt.Fprintf(&b, "  %s{{%s}}\n", ids[g.Router.Name], mermaidText("router", "all that no arrow shows is dropped", g.Router.State))
	fmt.Fprintf(&b, "  subgraph %s[%s]\n", ids[g.Cluster.Name], mermaidText(g.Cluster.Name+" network", g.Cluster.Prefix, g.Cluster.Note))
	if g.Ingress != nil {
		fmt.Fprintf(&b, "    %s([%s])\n", ids[g.Ingress.Name], mermaidText("ingress", strings.Join(g.Ingress.About, " "), g.Ingress.State))
	}
	groups := g.groups()
	for _, n := range groups {
		fmt.Fprintf(&b, "    %s[%s]\n", ids[n.Name], mermaidText(n.title(), n.about(), "agent "+n.Agent+", "+n.tpm(), n.standing()))
	}
	fmt.Fprintf(&b, "  end\n")
	for i, c := range g.CAs {
		fmt.Fprintf(&b, "  ca%d[/%s/]\n", i+1, mermaidText(c.Name, strings.Join(c.Chain, " → ")))
	}
	left, right := g.Services.Name, g.Cluster.Name
	if g.Push() {
		left, right = right, left // arrows go from left to right, then
	}
	fmt.Fprintf(&b, "  %s --- %s --- %s\n", ids[left], ids[g.Router.Name], ids[right])
	for _, f := range g.Flows {
		from, okFrom := ids[f.From]
		to, okTo := ids[f.To]
		if okFrom && okTo {
			fmt.Fprintf(&b, "  %s -->|%s| %s\n", from, mermaidText(f.Label()), to)
		}
	}
	if g.Ingress != nil && !g.Push() {
		for _, n := range groups {
			fmt.Fprintf(&b, "  %s --> %s\n", ids[g.Ingress.Name], ids[n.Name])
		}
	}
	for i, c := range g.CAs {
		for _, n := range groups {
			if n.CA == c.Name {
				fmt.Fprintf(&b, "  ca%d -.-> %s\n", i+1, ids[n.Name])
			}
		}
		if c.Trusted {
			fmt.Fprintf(&b, "  ca%d -.->|%s| %s\n", i+1, mermaidText("trusted: tpm_cert_store"), ids[g.Services.Name])
		}
	}
	if g.State != "" {
		for _, h := range g.all() {
			if h.State != "" {
				fmt.Fprintf(&b, "  class %s %s\n", ids[h.Name], stateClass(h.State))
			}
		}
		for _, n := range groups {
			if n.State != "" {
				fmt.Fprintf(&b, "  class %s %s\n", ids[n.Name], stateClass(n.State))
			}
		}
		b.WriteString("  classDef good fill:#a6dcb6,stroke:#1a7f37,color:#0c4a20\n  classDef wait fill:#cfe0f5,stroke:#3f75b5,color:#1d426f\n" +
			"  classDef bad fill:#f6b8b1,stroke:#cf222e,color:#7d1410\n  classDef other fill:#e4e8ec,stroke:#7a848f,color:#414a54\n")
	}
	return write(w, "Mermaid", g.Lab, b.String())
}

// ids are identifiers of networks, hosts and nodes, as the languages of graphs want them. Nodes that are drawn as one have one.
func (g Graph) ids() map[string]string {
	out := map[string]string{}
	for i, n := range g.groups() {
		for _, name := range n.Names {
			out[name] = fmt.Sprintf("node%d", i+1)
		}
	}
	for _, h := range g.all() {
		out[h.Name] = "host_" + strings.ReplaceAll(h.Name, "-", "_")
	}
	out[g.Services.Name], out[g.Cluster.Name] = "net_services", "net_cluster"
	return out
}

func write(w io.Writer, form, lab, text string) error {
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("write the graph of lab %s as %s: %w", lab, form, err)
	}
	return nil
}
