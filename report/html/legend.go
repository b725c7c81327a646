package html

import (
	"html/template"

	"keylab.dev/keylab/report"
)

// legendItem explains one thing in the chart.
type legendItem struct {
	Swatch template.HTML
	Words  string
}

// legend explains what the chart has, and no more.
func (d *drawing) legend() []legendItem {
	var out []legendItem
	add := func(used, words string, draw func(*canvas)) {
		if !d.used[used] {
			return
		}
		var c canvas
		c.tag("svg", "class", "swatch", "width", 26, "height", 20, "aria-hidden", "true")
		draw(&c)
		c.end("svg")
		out = append(out, legendItem{template.HTML(c.String()), words})
	}
	for _, w := range classWords {
		add(w.class, w.words, func(c *canvas) {
			c.leaf("rect", "", "class", "seg "+w.class, "x", 1, "y", 3, "width", 24, "height", 14, "rx", 2)
			if w.class != classGood && w.class != classWait {
				c.leaf("rect", "", "class", "over "+w.class, "x", 1, "y", 3, "width", 24, "height", 14, "rx", 2)
			}
		})
	}
	add("tick", "a good attestation each", func(c *canvas) {
		for _, x := range []int{5, 10, 15, 20} {
			c.leaf("line", "", "class", "tick", "x1", x, "x2", x, "y1", 7, "y2", 14)
		}
	})
	add("gap", "longest time without one", func(c *canvas) {
		c.leaf("path", "", "class", "gap", "d", "M2 10H24M2 7V13M24 7V13")
	})
	add("notice", "the verifier told somebody", func(c *canvas) { c.leaf("path", "", "class", "notice", "d", "M7 6H19L13 15Z") })
	add("poll", "the lab could not be asked", func(c *canvas) { c.leaf("path", "", "class", "poll", "d", "M9 6L17 14M17 6L9 14") })
	add("band", "a fault in force", func(c *canvas) {
		c.leaf("rect", "", "class", "band", "x", 1, "y", 4, "width", 24, "height", 13)
		c.leaf("line", "", "class", "bandline", "x1", 1, "x2", 25, "y1", 4, "y2", 4)
	})
	for _, k := range []struct {
		kind  report.StepKind
		words string
	}{{report.StepAction, "done"}, {report.StepFault, "broken"}, {report.StepMend, "mended"}, {report.StepExpect, "expected"}, {report.StepNever, "must not happen"}} {
		add(string(k.kind), k.words, func(c *canvas) {
			c.tag("svg", "class", "mark "+markClass(k.kind)+" good", "x", 13, "y", 1, "overflow", "visible")
			c.leaf("path", "", "class", "shape", "d", markShape(k.kind), "transform", "translate(0 2) scale(.75)")
			c.end("svg")
		})
	}
	return out
}
