package graph

import (
	"fmt"
	"strings"
)

// Sizes of the picture, in its own pixels.
const (
	margin    = 20
	netTop    = 20
	headRoom  = 62 // of a network, above its hosts
	gapY      = 12 // between hosts
	servicesW = 226
	routerX   = 306
	routerW   = 196
	clusterX  = 562
	ingressW  = 122
	nodeX     = 744
	nodeW     = 222
	tpmW      = 74
	flowH     = 42
	maxFlows  = 8 // drawn; more are counted
	caW       = 230
)

// layout is where things are.
type layout struct {
	width, height int
	netHeight     int
	hostH, nodeH  int
	clusterW      int
	groups        []group
	flows         []Flow
	hidden        int // flows that are not drawn
	stack         int // room for the edges of what is drawn as several
}

func (g Graph) layout() layout {
	l := layout{hostH: 50, nodeH: 50, groups: g.groups(), flows: g.Flows}
	if g.State != "" {
		l.hostH, l.nodeH = 68, 68
	}
	if len(g.Nodes) > maxSingle {
		l.stack = 8
	}
	if len(l.flows) > maxFlows {
		l.hidden = len(l.flows) - maxFlows
		l.flows = l.flows[:maxFlows]
	}
	services := headRoom + len(g.Hosts)*(l.hostH+gapY) + 34
	cluster := headRoom + len(l.groups)*(l.nodeH+gapY+l.stack) + 52
	router := headRoom + l.routerHeight()
	l.netHeight = max(services, cluster, router)
	l.clusterW = nodeX + nodeW - clusterX + 18 + 14*len(g.CAs)
	l.width = clusterX + l.clusterW + margin
	l.height = netTop + l.netHeight + 40 + len(g.CAs)*88 + 10
	return l
}

// routerHeight is that of the router's box: its name and addresses, a row for each flow, and what happens to all else.
func (l layout) routerHeight() int { return 134 + (len(l.flows)+min(l.hidden, 1))*flowH }

func (g Graph) drawServices(p *picture, l layout) {
	p.rect("net", margin, netTop, servicesW, l.netHeight, 8)
	mid := margin + servicesW/2
	p.text("h", "middle", mid, netTop+26, 0, g.Services.Name+" network")
	p.text("m", "middle", mid, netTop+44, 0, g.Services.Prefix)
	y := netTop + headRoom
	for _, h := range g.Hosts {
		p.rect(sick("host", h.State), margin+18, y, servicesW-36, l.hostH, 8)
		p.text("h", "middle", mid, y+21, servicesW-44, h.Name)
		p.text("m", "middle", mid, y+39, servicesW-40, strings.Join(h.About, " "))
		p.standing(mid, y+58, h.State, "middle")
		y += l.hostH + gapY
	}
	p.text("s", "middle", mid, netTop+l.netHeight-14, 0, "the real Keylime, from PyPI")
}

// sick marks a box whose part is not well.
func sick(class, state string) string {
	if stateClass(state) == "bad" {
		return class + " sick"
	}
	return class
}

// standing writes a state, if there is one, after a sign that differs for what is well, on its way and not well.
func (p *picture) standing(x, y int, state, anchor string) {
	if state == "" {
		return
	}
	word, _, _ := strings.Cut(state, " ×")
	class := stateClass(word)
	sign := map[string]string{"good": "● ", "wait": "◐ ", "bad": "✗ ", "other": "○ "}[class]
	p.text(class, anchor, x, y, 140, sign+state)
}

func (g Graph) drawCluster(p *picture, l layout) {
	p.rect("net", clusterX, netTop, l.clusterW, l.netHeight, 8)
	mid, inner := clusterX+l.clusterW/2, nodeX+nodeW-clusterX // inner: left of the lines from the CAs
	p.text("h", "middle", mid, netTop+26, 0, g.Cluster.Name+" network")
	note := g.Cluster.Prefix
	if g.Cluster.Note != "" {
		note += " · " + g.Cluster.Note
	}
	p.text("m", "middle", mid, netTop+44, l.clusterW-20, note)
	y := netTop + headRoom
	ingress := g.Ingress != nil && !g.Push()
	rows := len(l.groups)*(l.nodeH+gapY+l.stack) - gapY - l.stack
	if g.Ingress != nil {
		g.drawIngress(p, y, max(rows, 132))
	}
	for _, n := range l.groups {
		if ingress {
			p.arrow(clusterX+18+ingressW, nodeX-1, y+l.nodeH/2)
		}
		p.node(n, y, l.nodeH)
		y += l.nodeH + gapY + l.stack
	}
	below := netTop + l.netHeight - 30
	switch {
	case ingress:
		name := "<uuid 0-31>.<uuid 32-63>." + g.Domain
		if float64(len(name))*letter("m") > float64(inner-12) {
			name = "<uuid>." + g.Domain
		}
		p.text("s", "middle", clusterX+inner/2, below, 0, "each name leads to one agent:")
		p.text("m", "middle", clusterX+inner/2, below+17, inner-12, name)
	case g.Push():
		p.text("s", "middle", clusterX+inner/2, below+17, 0, "agents send their evidence to the verifier")
	}
}

func (g Graph) drawIngress(p *picture, y, h int) {
	class := "key"
	if g.Push() {
		class = "idle"
	}
	p.rect(sick(class, g.Ingress.State), clusterX+18, y, ingressW, h, 8)
	x, line := clusterX+18+ingressW/2, y+h/2-30
	p.text("h", "middle", x, line, 0, "ingress")
	for i, a := range g.Ingress.About {
		class := "s"
		if i == 0 {
			class = "m"
		}
		line += 17
		p.text(class, "middle", x, line, 0, a)
	}
	p.standing(x, line+20, g.Ingress.State, "middle")
}

// node draws a node with its TPM; several as a stack.
func (p *picture) node(n group, y, h int) {
	if n.size() > 1 {
		p.rect("host", nodeX+8, y+8, nodeW, h, 8)
		p.rect("host", nodeX+4, y+4, nodeW, h, 8)
	}
	p.rect(sick("host", n.State), nodeX, y, nodeW, h, 8)
	room := nodeW - tpmW - 26
	p.text("h", "", nodeX+12, y+21, room, n.title())
	p.text("m", "", nodeX+12, y+39, room, n.about())
	p.standing(nodeX+12, y+58, n.standing(), "")
	class := "key"
	if n.CA == "" {
		class = "idle"
	}
	x := nodeX + nodeW - tpmW - 8
	p.rect(class, x, y+7, tpmW, h-14, 6)
	p.text("t", "middle", x+tpmW/2, y+h/2-3, 0, "TPM")
	about := "EK " + shortAlgorithm(n.EK)
	if n.CA == "" {
		about = "no EK cert"
	} else if n.Note == "expired" || n.Note == "revoked" {
		about = n.Note
	}
	p.text("s", "middle", x+tpmW/2, y+h/2+13, tpmW, about)
}

// shortAlgorithm is the name of an EK's algorithm in a small box.
func shortAlgorithm(a string) string {
	switch a {
	case "rsa2048":
		return "RSA"
	case "ecc-p256":
		return "ECC"
	}
	return a
}

func (g Graph) drawRouter(p *picture, l layout) {
	p.rect(sick("host", g.Router.State), routerX, netTop+headRoom-10, routerW, l.routerHeight(), 8)
	mid := routerX + routerW/2
	y := netTop + headRoom + 14
	p.text("h", "middle", mid, y, 0, "router")
	p.text("m", "middle", mid, y+18, routerW-6, strings.Join(g.Router.About, " · "))
	p.standing(mid, y+37, g.Router.State, "middle")
	y += 68
	for _, f := range l.flows {
		g.drawFlow(p, f, y)
		y += flowH
	}
	if l.hidden > 0 {
		p.text("s", "middle", mid, y, 0, fmt.Sprintf("and %d more flows", l.hidden))
		y += flowH
	}
	p.text("s", "middle", mid, y+4, 0, "all else is dropped")
	p.text("s", "middle", mid, y+21, 0, "and counted; no NAT")
}

// drawFlow draws one flow: a line into the router and out of it on the other side, and what it is between the two.
func (g Graph) drawFlow(p *picture, f Flow, y int) {
	left, right := margin+servicesW, clusterX
	mid := routerX + routerW/2
	what := f.From + " → " + f.To
	from, to := g.side(f.From), g.side(f.To)
	y1 := y + 2
	switch {
	case from == "services" && to == "cluster":
		if g.Ingress != nil && f.To == g.Ingress.Name {
			right = clusterX + 17
		}
		p.path("flow", fmt.Sprintf("M%d %dH%d", left, y1, routerX))
		p.arrow(routerX+routerW, right, y1)
	case from == "cluster" && to == "services":
		p.path("flow", fmt.Sprintf("M%d %dH%d", right, y1, routerX+routerW))
		p.arrow(routerX, left+1, y1)
	}
	p.text("t", "middle", mid, y, routerW-10, what)
	label := f.Label()
	if f.Extra {
		label += " (asked for)"
	}
	p.text("m", "middle", mid, y+16, routerW-10, label)
}

// drawCAs draws the EK CAs below the networks: to the left whether they are trusted, to the right the TPMs whose EKs they certified.
func (g Graph) drawCAs(p *picture, l layout) {
	bottom := netTop + l.netHeight
	x := routerX + routerW/2 - caW/2
	for i, c := range g.CAs {
		y := bottom + 40 + i*88
		mid := y + 32
		p.rect("ca", x, y, caW, 64, 8)
		p.text("h", "middle", x+caW/2, y+27, caW-12, c.Name)
		chain := "unknown to the lab"
		if len(c.Chain) > 0 {
			chain = strings.Join(levels(c.Chain), " → ")
		}
		p.text("s", "middle", x+caW/2, y+47, caW-12, chain)
		line := "sign"
		if !c.Trusted {
			line = "sign alien"
		}
		trust := margin + 40 + i*16
		if c.Trusted {
			p.path(line, fmt.Sprintf("M%d %dH%dV%d", x, mid, trust, bottom+9))
			p.path("signhead", fmt.Sprintf("M%d %dl-5 9h10z", trust, bottom+1))
			p.text("s", "middle", (trust+x)/2, mid-9, 0, "trusted:")
			p.text("m", "middle", (trust+x)/2, mid+19, 0, "tpm_cert_store")
		} else {
			p.text("s", "end", x-12, mid+4, 0, "✗ not trusted")
		}
		g.drawCertified(p, l, c, x+caW, mid, nodeX+nodeW+16+14*i, line)
	}
}

// drawCertified leads a line from a CA to each TPM whose EK it certified. The line goes up at trunk, on the right of the nodes.
func (g Graph) drawCertified(p *picture, l layout, c CA, x, mid, trunk int, line string) {
	y, top, count := netTop+headRoom, 0, 0
	for _, n := range l.groups {
		if n.CA == c.Name {
			at := y + l.nodeH/2
			p.path(line, fmt.Sprintf("M%d %dH%d", trunk, at, nodeX+nodeW+1))
			p.path("signhead", fmt.Sprintf("M%d %dl9 -5v10z", nodeX+nodeW-7, at))
			if count == 0 {
				top = at
			}
			count += n.size()
		}
		y += l.nodeH + gapY + l.stack
	}
	if count > 0 {
		p.path(line, fmt.Sprintf("M%d %dH%dV%d", x, mid, trunk, top))
		what := "certified the EKs of all TPMs"
		if count < len(g.Nodes) {
			what = fmt.Sprintf("certified the EKs of %d of %d TPMs", count, len(g.Nodes))
		}
		p.text("s", "middle", (x+trunk)/2, mid-9, trunk-x, what)
	}
}

// levels say of a chain what stands in it rather than all names.
func levels(chain []string) []string {
	if len(chain) == 1 {
		return []string{"root"}
	}
	if len(chain) == 2 {
		return []string{"root", "intermediate"}
	}
	return []string{"root", fmt.Sprintf("%d intermediates", len(chain)-1)}
}
