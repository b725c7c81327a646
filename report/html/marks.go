package html

import (
	"fmt"
	"slices"
	"time"

	"keylab.dev/keylab/report"
)

// placed is a step with its place in the lanes above the rows.
type placed struct {
	stepView
	lane  int
	label string // beside the marker, where there is room
	left  bool   // the label stands on the left
}

// Of markers, in pixels.
const (
	markWidth  = 24
	labelLanes = 5  // lanes in which labels may take room; what needs more gets a bare number
	labelChars = 46 // longest label
)

// placeSteps puts the steps into lanes so that neither markers nor labels nor the lines of how long they took overlap in the narrowest plot.
func (d *drawing) placeSteps() []placed {
	var out []placed
	var ends []float64 // of each lane, where it is free again
	for i, s := range d.run.Steps {
		p := placed{stepView: viewStep(fmt.Sprintf("%s-s%d", d.id, i+1), s)}
		if s.Kind == report.StepLab && s.Number == 0 {
			p.Label = "↑"
			if i > 0 {
				p.Label = "↓"
			}
		}
		if p.Skipped || s.At+s.Duration < d.from {
			continue
		}
		x := d.pixels(s.At)
		end := max(x+markWidth-6, d.pixels(s.At+s.Duration)+4)
		free := func(from float64, most int) int {
			for l := range most {
				if l == len(ends) {
					ends = append(ends, -markWidth)
				}
				if ends[l] <= from {
					return l
				}
			}
			return -1
		}
		p.lane = -1
		for _, chars := range []int{labelChars, labelChars * 2 / 3, labelChars / 3} {
			label := clip(oneLine(s.Title()), chars)
			wide := textWidth(label) + 8
			if x+markWidth/2+wide <= nominal {
				if p.lane = free(x-markWidth/2, labelLanes); p.lane >= 0 {
					p.label, end = label, max(end, x+markWidth/2+wide)
				}
			} else if from := x - markWidth/2 - wide; from >= 0 {
				if p.lane = free(from, labelLanes); p.lane >= 0 {
					p.label, p.left = label, true
				}
			}
			if p.lane >= 0 {
				break
			}
		}
		if p.lane < 0 {
			p.lane = free(x-markWidth/2, len(d.run.Steps)+1)
		}
		ends[p.lane] = end
		out = append(out, p)
		d.used[string(s.Kind)] = true
	}
	return out
}

// mark draws one step: a line of how long it took, its number in the shape of its kind, and its name.
func (d *drawing) mark(p placed) {
	y := axisHeight + p.lane*laneHeight
	class := "mark " + markClass(p.Kind) + " " + p.Class
	title := fmt.Sprintf("%s %s, %s: %s, at %s, took %s", p.Kind, p.Label, p.Word, p.Name, took(p.At), took(p.Duration))
	if p.Duration > 0 {
		wide := d.x(p.At+p.Duration) - d.x(p.At)
		d.leaf("rect", title, "class", "span "+p.Class, "x", d.x(p.At), "y", y+19, "width", wide, "height", 3, "rx", 1.5)
	}
	d.tag("a", "href", "#"+p.ID, "aria-label", oneLine(title))
	d.tag("svg", "class", class, "x", d.x(p.At), "y", y, "overflow", "visible")
	d.leaf("path", title, "class", "shape", "d", markShape(p.Kind))
	d.text(p.Label, "class", "digit", "x", 0, "y", 13, "text-anchor", "middle")
	if p.Class == classBad {
		d.leaf("path", "", "class", "cross", "d", "M6 -1L12 5M12 -1L6 5")
	}
	if p.label != "" {
		x, anchor := markWidth/2+3, "start"
		if p.left {
			x, anchor = -x, "end"
		}
		d.text(p.label, "class", "name", "x", x, "y", 13, "text-anchor", anchor)
	}
	d.end("svg")
	d.end("a")
}

func markClass(k report.StepKind) string {
	switch k {
	case report.StepLab, report.StepAction, report.StepFault, report.StepMend, report.StepExpect, report.StepNever:
		return "k-" + string(k)
	}
	return "k-action"
}

// markShape is the outline of a kind's marker, about (0, 9): square for what was done, diamond for what was broken, hexagon for what was
// mended, circle for what was expected.
func markShape(k report.StepKind) string {
	switch k {
	case report.StepFault:
		return "M0 -3L12 9L0 21L-12 9Z"
	case report.StepMend:
		return "M-6 -1H6L11 9L6 19H-6L-11 9Z"
	case report.StepExpect, report.StepNever:
		return "M-9 9A9 9 0 1 0 9 9A9 9 0 1 0 -9 9Z"
	}
	return "M-7 0H7Q9 0 9 2V16Q9 18 7 18H-7Q-9 18 -9 16V2Q-9 0 -7 0Z"
}

// guides are faint lines from what was done or broken down through all rows.
func (d *drawing) guides(marks []placed, height int) {
	for _, p := range marks {
		switch p.Kind {
		case report.StepAction, report.StepFault, report.StepMend:
			d.leaf("line", "", "class", "guide "+markClass(p.Kind), "x1", d.x(p.At), "x2", d.x(p.At), "y1", axisHeight+p.lane*laneHeight+18, "y2", height)
		}
	}
}

// bands show how long each fault was in force, over the rows of its nodes. One without a proof that it fired was left out.
func (d *drawing) bands(top int) {
	for i, s := range d.run.Steps {
		if s.Kind != report.StepFault || s.Status != report.StepPassed || s.Evidence == "" {
			continue
		}
		end := d.mended(i)
		for j, n := range d.nodes {
			if len(s.Nodes) == 0 || slices.Contains(s.Nodes, n.name) {
				title := fmt.Sprintf("%s, from %s to %s", s.Name, took(s.At), took(end))
				d.leaf("rect", title, "class", "band", "x", d.x(s.At), "y", top+j*rowHeight-2, "width", d.x(end)-d.x(s.At), "height", rowHeight-4)
				d.leaf("line", "", "class", "bandline", "x1", d.x(s.At), "x2", d.x(end), "y1", top+j*rowHeight-2, "y2", top+j*rowHeight-2)
			}
		}
		d.used["band"] = true
	}
}

// mended is when the fault that is the i-th step was over: when a step that says so mended it, else when a later one mended something of the
// same nodes, else never.
func (d *drawing) mended(i int) time.Duration {
	fault := d.run.Steps[i]
	taken := map[int]bool{}
	for _, s := range d.run.Steps {
		if s.Kind == report.StepMend && s.Mends != 0 {
			taken[s.Number] = true
			if s.Mends == fault.Number && s.Status != report.StepSkipped {
				return s.At
			}
		}
	}
	for _, s := range d.run.Steps[i+1:] {
		if s.Kind == report.StepMend && !taken[s.Number] && s.Status != report.StepSkipped && slices.Equal(s.Nodes, fault.Nodes) {
			return s.At
		}
	}
	return d.to
}
