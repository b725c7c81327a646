package html

import (
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"

	"keylab.dev/keylab/report"
)

// Heights in the chart, in pixels.
const (
	axisHeight  = 22
	laneHeight  = 26
	rowHeight   = 32
	barHeight   = 15
	shareHeight = 52
)

// maxRows is up to how many nodes each has a row of its own; of more, only those of which there is something to tell.
const maxRows = 24

// maxEventful is how many of those are shown.
const maxEventful = 40

// chart is the timeline.
type chart struct {
	SVG    template.HTML
	Names  []chartName // of the rows, beside the plot, so that they stay when it is scrolled
	Top    int         // height of what is above the first row
	Height int
	Legend []legendItem
	Notes  []string
}

type chartName struct {
	Text, Kind string
	Height     int
}

// segment is a time in one state; the state's detail is what was said as it began.
type segment struct {
	from, to      time.Duration
	state, detail string
}

// row is one node or component.
type row struct {
	name      string
	component bool
	segments  []segment
	good      []time.Duration // attestations
	notices   []report.Entry
	gap       *report.Gap
}

// drawing is a chart in the making.
type drawing struct {
	canvas
	scale
	id     string
	run    report.Run
	nodes  []*row
	others []*row // nodes shown as one row
	parts  []*row // components that changed
	polls  []report.Entry
	used   map[string]bool // what the legend must explain
	names  []chartName
	usual  time.Duration // between attestations
	y      int
}

// newChart draws the timeline of a run. Markers lead to the step's row, whose id begins with id.
func newChart(id string, r report.Run) chart {
	d := &drawing{id: id, run: r, used: map[string]bool{}}
	var hidden time.Duration
	d.scale, hidden = newScale(r)
	d.gather()
	marks := d.placeSteps()
	lanes := 0
	for _, m := range marks {
		lanes = max(lanes, m.lane+1)
	}
	top := axisHeight + lanes*laneHeight + 10
	height := top + len(d.nodes)*rowHeight + len(d.parts)*rowHeight
	if len(d.others) > 0 {
		height += shareHeight
	}
	if len(d.polls) > 0 {
		height += rowHeight
	}
	if height == top && len(marks) == 0 {
		return chart{}
	}
	d.tag("svg", "class", "plot", "width", "100%", "height", height, "role", "group", "aria-label", "Timeline of "+plural(len(d.nodes)+len(d.others), "node")+" over "+took(r.Duration))
	d.axis(height)
	d.bands(top)
	d.guides(marks, height)
	d.y = top
	for _, n := range d.nodes {
		d.row(n)
	}
	d.share()
	for _, p := range d.parts {
		d.row(p)
	}
	d.pollRow()
	for _, m := range marks {
		d.mark(m)
	}
	d.end("svg")
	c := chart{SVG: template.HTML(d.String()), Names: d.names, Top: top, Height: height, Legend: d.legend()}
	if hidden > 0 {
		c.Notes = append(c.Notes, fmt.Sprintf("The first %s, in which the lab came up, are left out.", took(hidden)))
	}
	return c
}

// gather makes rows of the history.
func (d *drawing) gather() {
	rows := map[string]*row{}
	var order []*row
	get := func(name string, component bool) *row {
		key := fmt.Sprint(component, name)
		if rows[key] == nil {
			rows[key] = &row{name: name, component: component}
			order = append(order, rows[key])
		}
		return rows[key]
	}
	for _, n := range d.run.Nodes {
		get(n.Name, false)
	}
	for _, e := range slices.SortedStableFunc(slices.Values(d.run.History), func(a, b report.Entry) int { return int(a.At - b.At) }) {
		switch e.Kind {
		case report.EntryState, report.EntryLab:
			get(e.Node, e.Kind == report.EntryLab).enter(e, d.to)
		case report.EntryAttest:
			n := get(e.Node, false)
			n.good = append(n.good, e.At)
		case report.EntryNotice:
			n := get(e.Node, false)
			n.notices = append(n.notices, e)
		case report.EntryPoll:
			d.polls = append(d.polls, e)
		}
	}
	for i, g := range d.run.Gaps {
		if n := rows["false"+g.Node]; n != nil {
			n.gap = &d.run.Gaps[i]
		}
	}
	var nodes []*row
	for _, r := range order {
		switch {
		case !r.component:
			nodes = append(nodes, r)
		case len(r.segments) > 1 || len(r.segments) == 1 && stateClass(r.segments[0].state) != classGood:
			d.parts = append(d.parts, r)
		}
	}
	d.usual = usual(nodes)
	if len(nodes) <= maxRows {
		d.nodes = nodes
		return
	}
	for _, n := range nodes {
		if d.eventful(n) && len(d.nodes) < maxEventful {
			d.nodes = append(d.nodes, n)
		} else {
			d.others = append(d.others, n)
		}
	}
}

// enter ends the state that the row was in, and begins another.
func (r *row) enter(e report.Entry, end time.Duration) {
	if n := len(r.segments); n > 0 {
		if r.segments[n-1].state == e.State {
			return
		}
		r.segments[n-1].to = e.At
	}
	r.segments = append(r.segments, segment{from: e.At, to: end, state: e.State, detail: e.Detail})
}

// eventful tells whether a node of many deserves a row of its own.
func (d *drawing) eventful(r *row) bool {
	for _, s := range r.segments {
		if c := stateClass(s.state); c != classGood && c != classWait {
			return true
		}
	}
	if len(r.notices) > 0 || r.gap != nil && (r.gap.Refusals > 0 || r.gap.Failures > 0) {
		return true
	}
	return slices.ContainsFunc(d.run.Steps, func(s report.Step) bool { return len(s.Nodes) <= maxRows && slices.Contains(s.Nodes, r.name) })
}

func (d *drawing) axis(height int) {
	for _, t := range d.ticks() {
		d.leaf("line", "", "class", "grid", "x1", d.x(t), "x2", d.x(t), "y1", axisHeight-4, "y2", height)
		anchor := "middle"
		switch p := d.pixels(t); {
		case p < 12:
			anchor = "start"
		case p > nominal-24:
			anchor = "end"
		}
		d.text(took(t), "class", "axis", "x", d.x(t), "y", 12, "text-anchor", anchor)
	}
}

// row draws a bar of states, and below it the attestations, the notices, and the longest time without.
func (d *drawing) row(r *row) {
	kind := "node"
	if r.component {
		kind = "part"
	}
	d.names = append(d.names, chartName{oneLine(r.name), kind, rowHeight})
	var said []string
	for _, s := range r.segments {
		said = append(said, fmt.Sprintf("%s from %s to %s", s.state, took(s.from), took(s.to)))
	}
	label := fmt.Sprintf("%s: %s", r.name, strings.Join(said, ", "))
	if len(r.good) > 0 {
		label += fmt.Sprintf("; %d good attestations", len(r.good))
	}
	d.tag("g", "role", "img", "aria-label", oneLine(label))
	// What is not well comes last: its outline makes also a short time of it visible.
	for _, bad := range []bool{false, true} {
		for _, s := range r.segments {
			if s.to > d.from && (stateClass(s.state) == classBad) == bad {
				d.segment(s)
			}
		}
	}
	last := -1.0
	for _, t := range r.good {
		// Ticks closer than a pixel and a half would only make the page large.
		if p := d.pixels(t); t >= d.from && p-last > 1.5 {
			d.leaf("line", "", "class", "tick", "x1", d.x(t), "x2", d.x(t), "y1", d.y+barHeight+5, "y2", d.y+barHeight+11)
			last = p
		}
		d.used["tick"] = true
	}
	d.gap(r)
	for _, n := range r.notices {
		d.tag("svg", "x", d.x(n.At), "y", d.y-3, "overflow", "visible")
		d.leaf("path", fmt.Sprintf("%s, notice: %s", took(n.At), n.Detail), "class", "notice", "d", "M-6 0H6L0 9Z")
		d.end("svg")
		d.used["notice"] = true
	}
	d.end("g")
	d.y += rowHeight
}

func (d *drawing) segment(s segment) {
	class := stateClass(s.state)
	d.used[class] = true
	title := fmt.Sprintf("%s, %s to %s", s.state, took(s.from), took(s.to))
	if s.detail != "" {
		title += ": " + s.detail
	}
	x, wide := d.x(s.from), d.x(s.to)-d.x(s.from)
	d.leaf("rect", title, "class", "seg "+class, "x", x, "y", d.y+2, "width", wide, "height", barHeight, "rx", 2)
	if class != classGood && class != classWait {
		d.leaf("rect", "", "class", "over "+class, "x", x, "y", d.y+2, "width", wide, "height", barHeight, "rx", 2)
	}
	if room := float64(wide) / 100 * nominal; textWidth(s.state) < room-6 {
		// On a pattern, letters want a ground of their own: the outline of the class.
		d.tag("svg", "x", x, "y", d.y+2, "overflow", "visible")
		d.text(s.state, "class", "state "+class, "x", 5, "y", 11)
		d.end("svg")
	}
}

// gap draws the longest time without a good attestation where it is longer than what lies between attestations anyway.
func (d *drawing) gap(r *row) {
	if r.gap == nil || r.gap.Longest <= d.usual*5/2 {
		return
	}
	from, to := r.gap.At, r.gap.At+r.gap.Longest
	if d.pixels(to)-d.pixels(from) < 24 {
		return
	}
	y := d.y + barHeight + 8
	d.used["gap"] = true
	d.leaf("line", fmt.Sprintf("longest without a good attestation: %s, from %s", took(r.gap.Longest), took(from)), "class", "gap", "x1", d.x(from), "x2", d.x(to), "y1", y, "y2", y)
	for _, t := range []time.Duration{from, to} {
		d.leaf("line", "", "class", "gap", "x1", d.x(t), "x2", d.x(t), "y1", y-3, "y2", y+3)
	}
	if text := took(r.gap.Longest); d.pixels(to)-d.pixels(from) > textWidth(text)+12 {
		d.text(text, "class", "gaptext", "x", (d.x(from)+d.x(to))/2, "y", y+4, "text-anchor", "middle")
	}
}

// usual is the median time between attestations of all nodes; 0 where there were none.
func usual(rows []*row) time.Duration {
	var between []time.Duration
	for _, r := range rows {
		for i := range r.good {
			if i > 0 {
				between = append(between, r.good[i]-r.good[i-1])
			}
		}
	}
	if len(between) == 0 {
		return 0
	}
	slices.Sort(between)
	return between[len(between)/2]
}

// textWidth is about how many pixels a text takes in the chart's letters.
func textWidth(s string) float64 { return 6.3 * float64(len([]rune(s))) }

// pollRow shows when the lab could not be asked.
func (d *drawing) pollRow() {
	if len(d.polls) == 0 {
		return
	}
	d.names = append(d.names, chartName{"not observed", "part", rowHeight})
	for _, p := range d.polls {
		d.tag("svg", "x", d.x(p.At), "y", d.y+4, "overflow", "visible")
		d.leaf("path", fmt.Sprintf("%s, the lab could not be asked: %s", took(p.At), p.Detail), "class", "poll", "d", "M-4 0L4 8M4 0L-4 8")
		d.end("svg")
	}
	d.used["poll"] = true
	d.y += rowHeight
}
