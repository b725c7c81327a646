package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"go.yaml.in/yaml/v3"

	"keylab.dev/keylab/lab/plan"
)

// table writes rows in columns.
func table(w io.Writer, header string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(header, "|", "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// writeJSON writes a value for programs, indented for people.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// checkOutput refuses a form of output that a verb does not have.
func checkOutput(output string, allowed ...string) error {
	for _, a := range allowed {
		if output == a {
			return nil
		}
	}
	return usagef("--output %q is not one of %s", output, strings.Join(allowed, ", "))
}

// printPlan prints a whole plan.
func printPlan(w io.Writer, p plan.Plan, output string) error {
	switch output {
	case "json":
		return writeJSON(w, p)
	case "yaml":
		e := yaml.NewEncoder(w)
		e.SetIndent(2)
		if err := e.Encode(p); err != nil {
			return fmt.Errorf("write the plan: %w", err)
		}
		return e.Close()
	}
	return printPlanTables(w, p)
}

func printPlanTables(w io.Writer, p plan.Plan) error {
	fmt.Fprintf(w, "Lab %s on substrate %s: Keylime %s (%s mode, quote interval %s), agents in %s\n",
		p.Lab, p.Substrate, p.Keylime.Version, p.Keylime.Mode, time.Duration(p.Keylime.QuoteInterval), p.Domain)
	fmt.Fprintf(w, "\nHosts\n")
	var rows [][]string
	for _, h := range p.Hosts {
		for _, i := range h.Interfaces {
			via := "-"
			if len(h.Routes) > 0 {
				via = h.Routes[0].Via.String()
			}
			address := i.Address.String()
			if h.Pooled {
				address = "in " + p.Network(i.Network).Pool.String()
			}
			rows = append(rows, []string{h.Name, i.Network, address, orNothing(i.MAC), via, orDash(h.Resolver)})
		}
	}
	if err := table(w, "HOST|NETWORK|ADDRESS|MAC|DEFAULT ROUTE|RESOLVER", rows); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nAllowed through the router, and nothing else\n")
	rows = nil
	for _, r := range p.Rules {
		rows = append(rows, []string{r.Name, r.From.String(), r.To.String(), r.Protocol, port(r.Port)})
	}
	if err := table(w, "RULE|FROM|TO|PROTOCOL|PORT", rows); err != nil {
		return err
	}
	if k := p.Kubernetes; k != nil {
		fmt.Fprintf(w, "\nKubernetes %s: kind cluster %s, pods in %s, services in %s, ingress class %s, images from %s\n",
			k.Version, k.Cluster, k.PodCIDR, k.ServiceCIDR, k.IngressClass, k.ImageSource)
	}
	fmt.Fprintf(w, "\nEK CA: %s, %s\n", p.EKCA.Algorithm, strings.Join(p.EKCA.Subjects, " → "))
	fmt.Fprintf(w, "\nNodes\n")
	rows = nil
	for _, n := range p.Nodes {
		rows = append(rows, []string{n.Name, n.TPM.Backend, n.TPM.EKAlgorithm, ekNote(n.EK), n.Agent.Kind, n.Agent.UUID, n.Hostname})
	}
	if err := table(w, "NODE|TPM|EK|EK CERTIFICATE|AGENT|UUID|CONTACT ADDRESS", rows); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nSteps\n")
	return table(w, "STEP|AFTER|WHAT", stepRows(p))
}

// stepRows shows the steps that are the same for every node once.
func stepRows(p plan.Plan) [][]string {
	type group struct {
		after map[string]bool
		about string
		count int
	}
	groups, order := map[string]*group{}, []string(nil)
	for _, s := range p.Steps {
		name, _, _ := strings.Cut(s.Name, "/")
		g := groups[name]
		if g == nil {
			g = &group{after: map[string]bool{}, about: s.About}
			groups[name], order = g, append(order, name)
		}
		g.count++
		for _, a := range s.After {
			a, _, _ = strings.Cut(a, "/")
			g.after[a] = true
		}
	}
	var rows [][]string
	for _, name := range order {
		g := groups[name]
		var after []string
		for a := range g.after {
			after = append(after, a)
		}
		sort.Strings(after)
		if g.count > 1 {
			name = fmt.Sprintf("%s ×%d", name, g.count)
		}
		rows = append(rows, []string{name, orNothing(strings.Join(after, ", ")), g.about})
	}
	return rows
}

func ekNote(e plan.EK) string {
	switch {
	case e.Absent:
		return "none"
	case e.Stranger:
		return "by a stranger's CA"
	case e.Expired:
		return "expired"
	}
	return "by the lab's CA"
}

func port(p uint16) string {
	if p == 0 {
		return "any"
	}
	return fmt.Sprint(p)
}

func orDash(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

func orNothing(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
