package html

import (
	"fmt"
	"html"
	"strings"
	"time"

	"keylab.dev/keylab/report"
)

// canvas gathers SVG. Its width is that of the page, so x and widths are percentages of the plot, and heights are pixels; text keeps its size.
type canvas struct{ strings.Builder }

// tag opens an element: name, then attributes by name and value. Values are escaped, of any type.
func (c *canvas) tag(name string, attributes ...any) {
	c.WriteString("<" + name)
	for i := 0; i+1 < len(attributes); i += 2 {
		var value string
		switch v := attributes[i+1].(type) {
		case percent:
			value = v.String()
		default:
			value = report.Clean(fmt.Sprint(v))
		}
		if value != "" {
			fmt.Fprintf(c, ` %s="%s"`, attributes[i], html.EscapeString(value))
		}
	}
	c.WriteString(">")
}

// leaf is an element with nothing in it but perhaps a title, which browsers show to a pointer.
func (c *canvas) leaf(name, title string, attributes ...any) {
	c.tag(name, attributes...)
	if title != "" {
		c.WriteString("<title>" + html.EscapeString(oneLine(title)) + "</title>")
	}
	c.end(name)
}

func (c *canvas) text(s string, attributes ...any) {
	c.tag("text", attributes...)
	c.WriteString(html.EscapeString(oneLine(s)))
	c.end("text")
}

func (c *canvas) end(name string) { c.WriteString("</" + name + ">") }

// percent is a place or width in the plot.
type percent float64

func (p percent) String() string {
	return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.2f", float64(p)), "0"), ".") + "%"
}

// nominal is the least width of the plot, in pixels, for which texts are fitted in; style.css has the same. A wider plot only has more room.
const nominal = 760

// scale places moments of a run in the plot.
type scale struct{ from, to time.Duration }

// x is where a moment is, at the edge if it is outside.
func (s scale) x(t time.Duration) percent {
	t = min(max(t, s.from), s.to)
	return percent(100 * float64(t-s.from) / float64(s.to-s.from))
}

// pixels is x in the narrowest plot.
func (s scale) pixels(t time.Duration) float64 { return float64(s.x(t)) / 100 * nominal }

// newScale shows a whole run, but not much of the time in which the lab came up, if that is most of it.
func newScale(r report.Run) (s scale, hidden time.Duration) {
	s.to = max(r.Duration, time.Millisecond)
	for _, e := range r.History {
		s.to = max(s.to, e.At)
	}
	var up time.Duration
	for i, st := range r.Steps {
		s.to = max(s.to, st.At+st.Duration)
		if st.Kind == report.StepLab && i == 0 {
			up = st.At + st.Duration
		}
	}
	if rest := s.to - up; rest > 0 && up > rest/2 && len(r.Steps) > 1 {
		s.from = up - rest/8
	}
	return s, s.from
}

// ticks are the round moments of the axis, at most ten or so.
func (s scale) ticks() []time.Duration {
	length := s.to - s.from
	step := time.Millisecond
	for _, next := range []int64{2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 30000, 60000, 120000, 300000, 600000, 1800000, 3600000, 7200000, 21600000, 86400000} {
		if length/step <= 10 {
			break
		}
		step = time.Duration(next) * time.Millisecond
	}
	var out []time.Duration
	for t := (s.from + step - 1) / step * step; t <= s.to; t += step {
		out = append(out, t)
		if len(out) > 100 {
			break
		}
	}
	return out
}
