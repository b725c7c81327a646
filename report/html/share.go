package html

import (
	"fmt"
	"time"
)

// shareSteps is into how many parts the time is cut for the share of attested nodes.
const shareSteps = 190

// share draws the nodes that have no row of their own as one: how many of them are attested, over the time.
func (d *drawing) share() {
	if len(d.others) == 0 {
		return
	}
	d.names = append(d.names, chartName{plural(len(d.others), "other node"), "node", shareHeight})
	counts := make([]int, shareSteps)
	for i := range counts {
		t := d.from + (d.to-d.from)*time.Duration(2*i+1)/(2*shareSteps)
		for _, n := range d.others {
			if n.attestedAt(t) {
				counts[i]++
			}
		}
	}
	const full = shareHeight - 12
	d.tag("g", "role", "img", "aria-label", fmt.Sprintf("%d other nodes: %d of them attested at the end", len(d.others), counts[shareSteps-1]))
	d.leaf("rect", "", "class", "seg off", "x", percent(0), "y", d.y+4, "width", "100%", "height", full, "rx", 2)
	for i := 0; i < shareSteps; {
		j := i
		for j < shareSteps && counts[j] == counts[i] {
			j++
		}
		if counts[i] > 0 {
			high := float64(full) * float64(counts[i]) / float64(len(d.others))
			d.leaf("rect", fmt.Sprintf("%d of %d attested", counts[i], len(d.others)), "class", "seg plain good", "x", percent(100*float64(i)/shareSteps), "y", fmt.Sprintf("%.1f", float64(d.y+4+full)-high),
				"width", percent(100*float64(j-i)/shareSteps), "height", fmt.Sprintf("%.1f", high))
		}
		i = j
	}
	d.text(fmt.Sprintf("%d of %d attested", counts[shareSteps-1], len(d.others)), "class", "state good", "x", percent(99), "y", d.y+22, "text-anchor", "end")
	d.end("g")
	d.used[classGood], d.used["share"] = true, true
	d.y += shareHeight
}

func (r *row) attestedAt(t time.Duration) bool {
	for _, s := range r.segments {
		if s.from <= t && t < s.to {
			return stateClass(s.state) == classGood
		}
	}
	return false
}
