package html

import (
	"cmp"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"
	"time"

	"keylab.dev/keylab/report"
)

// runView is a run as the template shows it.
type runView struct {
	report.Run
	ID      string // in the page
	Verdict verdict
	Reason  string
	Counts  string
	Story   []story
	Numbers []number
	Picture template.HTML
	Chart   chart
	Steps   []stepView
	Nodes   []nodeView
	Certs   []certView
	Network []report.Log // counters that grew, as name and text
	HasRefs bool         // some node was refused or given up
}

type verdict struct{ Word, Class, Mark string }

type story struct{ Heading, Text string }

// number is one of the key figures at the top.
type number struct{ Label, Value, Note string }

type stepView struct {
	report.Step
	ID, Label, Word, Class, Mark, Reason string
	Skipped                              bool
	Others                               []string // nodes that the title does not name
}

type nodeView struct {
	report.RunNode
	Gap     *report.Gap
	Percent float64 // of the longest gap of any node
	Class   string
}

type certView struct {
	report.Certificate
	Issuance string
	Class    string
}

func viewRun(id string, r report.Run) runView {
	passed, failed, skipped := r.Count()
	v := runView{
		Run: r, ID: id, Verdict: verdictView(r.Verdict), Reason: r.Reason(), Picture: template.HTML(r.Topology), Chart: newChart(id, r),
	}
	v.Title = cmp.Or(r.Title, r.Scenario, "A run without a name")
	v.Counts = fmt.Sprintf("%d of %d", passed, passed+failed+skipped)
	for _, s := range []story{{"The question", r.Question}, {"What happens", r.Happens}, {"Why", r.Why}, {"What it means for a fleet", r.Fleet}} {
		if strings.TrimSpace(s.Text) != "" {
			v.Story = append(v.Story, s)
		}
	}
	for i, s := range r.Steps {
		v.Steps = append(v.Steps, viewStep(fmt.Sprintf("%s-s%d", id, i+1), s))
	}
	v.nodes(r)
	v.Numbers = numbers(r, v.Counts)
	for _, c := range r.Certificates {
		v.Certs = append(v.Certs, viewCert(c, r.Started))
	}
	v.Network = counters(r.History)
	return v
}

func verdictView(v report.Verdict) verdict {
	switch v {
	case report.Passed:
		return verdict{"Passed", "good", "✓"}
	case report.Failed:
		return verdict{"Failed", "bad", "✗"}
	case report.Broken:
		return verdict{"Could not be carried out", "bad", "!"}
	case report.Interrupted:
		return verdict{"Interrupted", "other", "■"}
	}
	return verdict{"No verdict", "bad", "?"}
}

func viewStep(id string, s report.Step) stepView {
	v := stepView{Step: s, ID: id, Label: "·", Word: "passed", Class: "good", Mark: "✓", Reason: s.Reason()}
	if s.Number > 0 {
		v.Label = fmt.Sprint(s.Number)
	}
	title := wordsOf(s.Title())
	for _, n := range s.Nodes {
		if !slices.Contains(title, n) {
			v.Others = append(v.Others, n)
		}
	}
	switch {
	case s.Status == report.StepSkipped:
		v.Word, v.Class, v.Mark, v.Skipped, v.Reason = "skipped", "other", "–", true, s.Error
	case v.Reason != "":
		v.Word, v.Class, v.Mark = "failed", "bad", "✗"
	}
	return v
}

// wordsOf are the words of a sentence, without the marks between them.
func wordsOf(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(" ,;:()\"", r) })
}

// nodes puts each node's gap beside how it was at the end. A node that only one of the two lists has is shown too.
func (v *runView) nodes(r report.Run) {
	gaps := map[string]*report.Gap{}
	var longest time.Duration
	for i, g := range r.Gaps {
		gaps[g.Node] = &r.Gaps[i]
		longest = max(longest, g.Longest)
		v.HasRefs = v.HasRefs || g.Refusals > 0 || g.Failures > 0
	}
	add := func(n report.RunNode, g *report.Gap) {
		row := nodeView{RunNode: n, Gap: g, Class: stateClass(n.State)}
		if g != nil && longest > 0 {
			row.Percent = 100 * float64(g.Longest) / float64(longest)
		}
		v.Nodes = append(v.Nodes, row)
	}
	for _, n := range r.Nodes {
		add(n, gaps[n.Name])
		delete(gaps, n.Name)
	}
	for i, g := range r.Gaps {
		if gaps[g.Node] != nil {
			add(report.RunNode{Name: g.Node, Attestations: g.Count}, &r.Gaps[i])
		}
	}
}

func numbers(r report.Run, counts string) []number {
	list := []number{{"steps passed", counts, ""}, {"duration", took(r.Duration), ""}}
	if len(r.Nodes) > 0 {
		attested := 0
		for _, n := range r.Nodes {
			if n.State == "attested" {
				attested++
			}
		}
		list = append(list, number{"nodes attested at the end", fmt.Sprintf("%d of %d", attested, len(r.Nodes)), ""})
	}
	if len(r.Gaps) > 0 {
		refusals, failures := 0, 0
		for _, g := range r.Gaps {
			refusals += g.Refusals
			failures += g.Failures
		}
		longest := slices.MaxFunc(r.Gaps, func(a, b report.Gap) int { return cmp.Compare(a.Longest, b.Longest) })
		list = append(list, number{"longest without attestation", took(longest.Longest), oneLine(longest.Node)}, number{"refused · given up", fmt.Sprintf("%d · %d", refusals, failures), ""})
	}
	return list
}

func viewCert(c report.Certificate, started time.Time) certView {
	v := certView{Certificate: c, Issuance: stamp(c.Issued), Class: "other"}
	// Times in certificates are whole seconds.
	if since := c.Issued.Sub(started); !c.Issued.IsZero() && since > -time.Second && since < 24*time.Hour {
		v.Issuance = "after" + noBreak + took(max(since, 0))
	}
	if c.Trusted {
		v.Class = "good"
	}
	return v
}

// counters sums what grew over the whole run.
func counters(history []report.Entry) []report.Log {
	sums := map[string]uint64{}
	for _, e := range history {
		for name, n := range e.Deltas {
			sums[name] += n
		}
	}
	var out []report.Log
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		out = append(out, report.Log{Name: name, Text: fmt.Sprintf("+%d", sums[name])})
	}
	return out
}
