package graph

import (
	"fmt"
	"html"
	"io"
	"strings"
	"unicode/utf8"

	"keylab.dev/keylab/report"
)

// svgStyle colours the picture by variables, so that a page which contains it can give it its own, and every rule is about this picture
// alone, for in a page they would be about all of it.
const svgStyle = `.keylab-graph{--kg-page:#fff;--kg-ink:#1f2328;--kg-quiet:#57606a;--kg-net:#f6f8fa;--kg-line:#818b98;--kg-host:#fff;--kg-flow:#0969da;--kg-key:#ddf4ff;--kg-ca:#9a6700;--kg-cafill:#fff8c5;--kg-good:#1a7f37;--kg-bad:#cf222e;--kg-wait:#3f75b5;--kg-other:#6a737d}
@media (prefers-color-scheme:dark){.keylab-graph{--kg-page:#0d1117;--kg-ink:#f0f6fc;--kg-quiet:#a9b4bf;--kg-net:#151b23;--kg-line:#8b949e;--kg-host:#0d1117;--kg-flow:#58a6ff;--kg-key:#0c2d6b;--kg-ca:#d29922;--kg-cafill:#3b2d05;--kg-good:#46b866;--kg-bad:#f47067;--kg-wait:#6ca4e8;--kg-other:#9aa5b1}}
.keylab-graph text{font-family:-apple-system,"Segoe UI",Helvetica,Arial,"DejaVu Sans",sans-serif;font-size:14px;fill:var(--kg-ink)}
.keylab-graph .h{font-weight:600}.keylab-graph .s{font-size:12px;fill:var(--kg-quiet)}.keylab-graph .m{font-family:ui-monospace,Menlo,"DejaVu Sans Mono",monospace;font-size:11.5px;fill:var(--kg-quiet)}
.keylab-graph .page{fill:var(--kg-page)}.keylab-graph .net{fill:var(--kg-net);stroke:var(--kg-line);stroke-dasharray:5 4}
.keylab-graph .host{fill:var(--kg-host);stroke:var(--kg-line)}.keylab-graph .key{fill:var(--kg-key);stroke:var(--kg-flow)}.keylab-graph .ca{fill:var(--kg-cafill);stroke:var(--kg-ca)}
.keylab-graph .idle{fill:var(--kg-host);stroke:var(--kg-line);stroke-dasharray:3 3}
.keylab-graph .flow{fill:none;stroke:var(--kg-flow);stroke-width:2}.keylab-graph .flowhead{fill:var(--kg-flow)}
.keylab-graph .sign{fill:none;stroke:var(--kg-ca);stroke-width:1.6;stroke-dasharray:5 4}.keylab-graph .signhead{fill:var(--kg-ca)}
.keylab-graph .alien{stroke-dasharray:1.5 4;stroke-linecap:round;stroke-width:2}
.keylab-graph .good{fill:var(--kg-good)}.keylab-graph .bad{fill:var(--kg-bad)}.keylab-graph .wait{fill:var(--kg-wait)}.keylab-graph .other{fill:var(--kg-other)}
.keylab-graph text.good,.keylab-graph text.bad,.keylab-graph text.wait,.keylab-graph text.other{font-size:12px;font-weight:600}
.keylab-graph rect.sick{stroke:var(--kg-bad);stroke-width:2}
`

// picture is SVG in the making.
type picture struct{ strings.Builder }

func (p *picture) rect(class string, x, y, w, h, r int) {
	fmt.Fprintf(p, `<rect class="%s" x="%d" y="%d" width="%d" height="%d" rx="%d"/>`+"\n", class, x, y, w, h, r)
}

// text writes a line. It is clipped to width pixels, 0 being no limit; whole is then what a pointer shows.
func (p *picture) text(class, anchor string, x, y, width int, s string) {
	s = strings.Join(strings.Fields(report.Clean(s)), " ")
	shown := s
	if most := int(float64(width) / letter(class)); width > 0 && utf8.RuneCountInString(s) > most {
		shown = string([]rune(s)[:max(most-1, 1)]) + "…"
	}
	fmt.Fprintf(p, `<text class="%s" x="%d" y="%d"`, class, x, y)
	if anchor != "" {
		fmt.Fprintf(p, ` text-anchor="%s"`, anchor)
	}
	fmt.Fprintf(p, ">%s", html.EscapeString(shown))
	if shown != s {
		fmt.Fprintf(p, "<title>%s</title>", html.EscapeString(s))
	}
	p.WriteString("</text>\n")
}

// letter is about how wide a letter of a class of texts is, in pixels.
func letter(class string) float64 {
	switch class {
	case "h":
		return 8.2
	case "m":
		return 7
	}
	return 6.6
}

func (p *picture) path(class, d string) { fmt.Fprintf(p, `<path class="%s" d="%s"/>`+"\n", class, d) }

// arrow draws a level line of a flow with its head at x2.
func (p *picture) arrow(x1, x2, y int) {
	back := -9
	if x2 < x1 {
		back = 9
	}
	p.path("flow", fmt.Sprintf("M%d %dH%d", x1, y, x2+back/2))
	p.path("flowhead", fmt.Sprintf("M%d %dl%d -5v10z", x2, y, back))
}

// SVG writes the graph as a picture. It follows the reader's choice of light or dark; in a page, variables that begin with --kg- give it
// other colours. It has no ids, so a page may contain it more than once.
func (g Graph) SVG(w io.Writer) error {
	l := g.layout()
	var p picture
	fmt.Fprintf(&p, `<svg xmlns="http://www.w3.org/2000/svg" class="keylab-graph" viewBox="0 0 %d %d" role="img" aria-label="%s">`+"\n", l.width, l.height, html.EscapeString(g.describe()))
	fmt.Fprintf(&p, "<title>%s</title>\n<style>\n%s</style>\n", html.EscapeString(report.Clean(g.heading())), svgStyle)
	p.rect("page", 0, 0, l.width, l.height, 0)
	g.drawServices(&p, l)
	g.drawCluster(&p, l)
	g.drawRouter(&p, l)
	g.drawCAs(&p, l)
	p.text("s", "end", l.width-margin, l.height-10, 0, g.heading())
	p.WriteString("</svg>\n")
	return write(w, "SVG", g.Lab, p.String())
}

// describe is the picture in words, for who cannot see it.
func (g Graph) describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s. On the left the services network", g.heading())
	for i, h := range g.Hosts {
		fmt.Fprintf(&b, "%s %s", []string{",", " with"}[btoi(i == 0)], h.Name)
		if h.State != "" {
			fmt.Fprintf(&b, " (%s)", h.State)
		}
	}
	b.WriteString(". In the middle a router that lets pass")
	for i, f := range g.Flows {
		fmt.Fprintf(&b, "%s %s to %s, %s", []string{";", ""}[btoi(i == 0)], f.From, f.To, f.Label())
	}
	b.WriteString(". On the right the cluster network")
	if g.Ingress != nil {
		b.WriteString(" with an ingress")
	}
	for _, n := range g.groups() {
		fmt.Fprintf(&b, "; %s", n.title())
		if n.size() > 1 {
			fmt.Fprintf(&b, " (%s)", n.about())
		}
		if n.CA == "" {
			b.WriteString(", without an EK certificate")
		} else {
			fmt.Fprintf(&b, ", certified by the %s", n.CA)
		}
		if n.State != "" {
			fmt.Fprintf(&b, ", %s", n.standing())
		}
	}
	b.WriteString(".")
	return report.Clean(b.String())
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
