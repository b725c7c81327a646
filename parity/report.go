package parity

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Difference is a case in which the agents differ, or in which they should, and do not.
type Difference struct {
	Case       string // [Case.ID] or [VerdictCase.ID]
	Own, Other string
	Reason     string // why; empty: nobody knows
	Stale      bool   // there is a reason, but no difference
}

// Differences are all of them, in the order of the cases.
func (r *Result) Differences() []Difference {
	var all []Difference
	for _, row := range r.rows() {
		if !row.same() || row.reason != "" {
			all = append(all, Difference{Case: row.id, Own: row.own, Other: row.other, Reason: row.reason, Stale: row.same()})
		}
	}
	return all
}

// Unexplained are the differences without a reason, and the reasons without a difference.
func (r *Result) Unexplained() []Difference {
	var all []Difference
	for _, d := range r.Differences() {
		if d.Reason == "" || d.Stale {
			all = append(all, d)
		}
	}
	return all
}

// row is one line of the matrix.
type row struct{ id, group, name, own, other, ownNote, otherNote, reason string }

func (r row) same() bool { return r.own == r.other }

// The groups of verdicts, by lab.
const (
	verdictGroup     = "verdict"
	toldVerdictGroup = "verdict and revocation actions"
	pushVerdictGroup = "verdict in the push model"
)

// titles are those of groups that are not their own title.
var titles = map[string]string{verdictGroup: "The verifier's verdicts", toldVerdictGroup: "What agents do when told of another's failure", pushVerdictGroup: "The verifier's verdicts in the push model"}

func (r *Result) rows() []row {
	var rows []row
	for _, c := range r.Cases {
		own, other := r.Own[c.ID()], r.Other[c.ID()]
		rows = append(rows, row{c.ID(), c.Group, c.Name, own.String(), other.String(), own.Note, other.Note, c.Reason})
	}
	for _, c := range r.Verdicts {
		v := r.Judged[c.ID()]
		rows = append(rows, row{id: c.ID(), group: c.group(), name: c.Name, own: v[0].String(), other: v[1].String(), reason: c.Reason})
	}
	return rows
}

const legend = `Every case is done to both agents in one lab (netns). A request goes from the tenant's host through router and ingress, with a client
certificate of Keylime's CA, unless the group says otherwise. "Both" is what both agents did; where they differ, both are shown.

An answer is its status, its content type unless that is application/json, its Allow field, and its body: **error** is
` + "`{\"code\": the status, \"status\": text, \"results\": {}}`" + `, **success** the same with code 200 and results null; else the shape of *results* is
shown (keys and types; the values of algorithms and versions), or **nothing** for an empty body. A **good quote** is one by the registered AK, over
the nonce, with the PCR values beside it. **closed** is a connection that the agent ended.

A verdict is the verifier's state of the agent and its event; in the push model the verifier has no more than PASS, FAIL and, for an agent that it
hears nothing good of, TIMEOUT. Revocation actions are programs of the payload, listed in this order: one, two (which fails), three.
`

// programs are rust-keylime's, by model.
var programs = map[string]string{"pull": "keylime_agent", "push": "keylime_push_model_agent"}

// Summary counts the cases.
func (r *Result) Summary() string {
	rows, same := r.rows(), 0
	for _, x := range rows {
		if x.same() {
			same++
		}
	}
	return fmt.Sprintf("%d cases: %d alike, %d different.", len(rows), same, len(rows)-same)
}

// Markdown writes the report: counts, differences, and the whole matrix.
func (r *Result) Markdown(w io.Writer) error {
	out := bufio.NewWriter(w)
	rows := r.rows()
	fmt.Fprintf(out, "# Parity with the Rust agent\n\n")
	var agents []string
	for _, m := range r.Models {
		agents = append(agents, "`"+programs[m]+"`")
	}
	fmt.Fprintf(out, "keylab's own agent (`go`) beside rust-keylime's %s %s, with Keylime %s. Written by `make parity`; do not edit.\n\n",
		strings.Join(agents, " and "), r.Agent, r.Keylime)
	fmt.Fprintf(out, "**%s**\n\n%s\n", r.Summary(), legend)
	fmt.Fprintf(out, "## Differences\n\n")
	r.writeDifferences(out)
	group := ""
	for _, x := range rows {
		if x.group != group {
			group = x.group
			title := titles[group]
			if title == "" {
				title = group
			}
			fmt.Fprintf(out, "\n## %s\n\n| case | both |\n|---|---|\n", strings.ToUpper(title[:1])+title[1:])
		}
		if x.same() {
			fmt.Fprintf(out, "| %s | %s |\n", cell(x.name), cell(x.own))
		} else {
			fmt.Fprintf(out, "| %s | **own:** %s<br>**Rust:** %s |\n", cell(x.name), cell(noted(x.own, x.ownNote)), cell(noted(x.other, x.otherNote)))
		}
	}
	return out.Flush()
}

// writeDifferences lists them by their reasons; what both did is in the matrix.
func (r *Result) writeDifferences(out io.Writer) {
	var whys []string
	by := map[string][]string{}
	for _, d := range r.Differences() {
		why := d.Reason
		switch {
		case d.Stale:
			why = "**No difference any more**, but: " + why
		case why == "":
			why = "**Unexplained**"
		}
		if by[why] == nil {
			whys = append(whys, why)
		}
		by[why] = append(by[why], cell(d.Case))
	}
	if len(whys) == 0 {
		fmt.Fprintln(out, "None.")
		return
	}
	fmt.Fprint(out, "| why | cases |\n|---|---|\n")
	for _, why := range whys {
		fmt.Fprintf(out, "| %s. | %s |\n", escaped(why), strings.Join(by[why], "<br>"))
	}
}

func noted(text, note string) string {
	if note == "" {
		return text
	}
	return text + " (" + note + ")"
}

// cell is a text as the cell of a table: long names of cases are cut.
func cell(text string) string {
	const most = 300
	if r := []rune(text); len(r) > most {
		text = string(r[:most]) + "…"
	}
	return escaped(text)
}

// escaped is a text as Markdown shows it in a table; bold and line breaks stay what they are.
func escaped(text string) string {
	text = strings.NewReplacer("\\", `\\`, "|", `\|`, "\n", " ", "*", `\*`, "_", `\_`, "<", "&lt;").Replace(text)
	return strings.ReplaceAll(strings.ReplaceAll(text, `\*\*`, "**"), "&lt;br>", "<br>")
}

// Record is what one agent did, to which another can be held later.
type Record struct {
	Agent        string       `json:"agent"`
	Observations Observations `json:"observations"`
}

// Record writes what the other agent answered.
func (r *Result) Record(w io.Writer) error {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.SetIndent("", " ")
	noteless := Observations{}
	for id, o := range r.Other {
		o.Note = ""
		noteless[id] = o
	}
	return out.Encode(Record{Agent: r.Agent, Observations: noteless})
}
