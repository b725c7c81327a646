package html

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/report"
	"keylab.dev/keylab/report/internal/sample"
)

// Markers, labels and the lines of how long steps took do not overlap, whatever a scenario does.
func TestNothingOverlaps(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	runs := []report.Run{sample.Rotation(), sample.Swapped()}
	for range 50 {
		r := report.Run{Duration: time.Minute}
		at := time.Duration(0)
		for i := range 1 + random.IntN(30) {
			s := report.Step{Number: i + 1, Kind: report.StepAction, Name: "a step with a name that is long enough to matter to others", Status: report.StepPassed, At: at, Duration: time.Duration(random.Int64N(int64(9 * time.Second)))}
			r.Steps = append(r.Steps, s)
			at += time.Duration(random.Int64N(int64(4 * time.Second)))
		}
		runs = append(runs, r)
	}
	for i, r := range runs {
		d := &drawing{run: r, used: map[string]bool{}}
		d.scale, _ = newScale(r)
		type span struct{ from, to float64 }
		lanes := map[int][]span{}
		for _, p := range d.placeSteps() {
			x := d.pixels(p.At)
			s := span{x - 9, max(x+9, d.pixels(p.At+p.Duration))}
			if w := textWidth(p.label); p.label != "" && p.left {
				s.from = x - 12 - w
			} else if p.label != "" {
				s.to = max(s.to, x+12+w)
			}
			for _, o := range lanes[p.lane] {
				if s.from < o.to && o.from < s.to {
					t.Errorf("run %d: step %d (%.0f to %.0f) overlaps another in lane %d (%.0f to %.0f)", i, p.Number, s.from, s.to, p.lane, o.from, o.to)
				}
			}
			if s.from < -10 || p.label != "" && s.to > nominal+10 {
				t.Errorf("run %d: step %d leaves the plot: %.0f to %.0f", i, p.Number, s.from, s.to)
			}
			lanes[p.lane] = append(lanes[p.lane], s)
		}
	}
}

// Bringing up a slow lab does not push what matters into a corner.
func TestUpIsCutShort(t *testing.T) {
	r := sample.Swapped()
	if s, hidden := newScale(r); s.from != 0 || hidden != 0 {
		t.Errorf("a quick up is cut: from %s", s.from)
	}
	r.Steps[0].Duration = 90 * time.Second
	for i := range r.Steps[1:] {
		r.Steps[i+1].At += 86 * time.Second
	}
	r.Duration += 86 * time.Second
	s, hidden := newScale(r)
	if hidden < 80*time.Second || s.from >= r.Steps[0].Duration || s.pixels(r.Steps[1].At) > nominal/4 {
		t.Errorf("from %s, hidden %s", s.from, hidden)
	}
}

// In a run without its faults nothing was in force.
func TestNoBandWithoutProof(t *testing.T) {
	r := sample.Swapped()
	if svg := string(newChart("r1", r).SVG); strings.Count(svg, `class="band"`) != 2 {
		t.Error("the fault of two nodes has not two bands")
	}
	r.Steps[1].Evidence, r.Steps[1].Done = "", "left out"
	if svg := string(newChart("r1", r).SVG); strings.Contains(svg, `class="band"`) {
		t.Error("a fault that was left out has a band")
	}
}

func TestFaultEndsWhereItWasMended(t *testing.T) {
	r := sample.Swapped()
	d := &drawing{run: r, scale: scale{to: r.Duration}}
	if end := d.mended(1); end != 16*time.Second {
		t.Errorf("by number: %s", end)
	}
	r.Steps[3].Mends = 0
	if end := d.mended(1); end != 16*time.Second {
		t.Errorf("by nodes: %s", end)
	}
	r.Steps[3].Nodes = []string{"node-3"}
	if end := d.mended(1); end != r.Duration {
		t.Errorf("never: %s", end)
	}
}

// A gap is one beside what is usual for the lab, even if the node itself was attested twice only, and a short failure can be seen.
func TestGapAndShortFailure(t *testing.T) {
	r := report.Run{Duration: time.Minute, Nodes: []report.RunNode{{Name: "a"}, {Name: "b"}}, Gaps: []report.Gap{{Node: "a", Longest: time.Second}, {Node: "b", Longest: 50 * time.Second, At: time.Second}}}
	for i := range 59 {
		r.History = append(r.History, report.Entry{At: time.Duration(i) * time.Second, Kind: report.EntryAttest, Node: "a"})
	}
	r.History = append(r.History, report.Entry{At: time.Second, Kind: report.EntryAttest, Node: "b"}, report.Entry{At: 51 * time.Second, Kind: report.EntryAttest, Node: "b"},
		report.Entry{Kind: report.EntryState, Node: "b", State: "attested"}, report.Entry{At: 50 * time.Second, Kind: report.EntryState, Node: "b", State: "failed"},
		report.Entry{At: 50*time.Second + time.Millisecond, Kind: report.EntryState, Node: "b", State: "attested"})
	svg := string(newChart("r1", r).SVG)
	if strings.Count(svg, "longest without a good attestation") != 1 || !strings.Contains(svg, "longest without a good attestation: 50 s") {
		t.Error("the gap of b, and only that, should be drawn")
	}
	if bad, good := strings.Index(svg, `class="seg bad"`), strings.LastIndex(svg, `class="seg good"`); bad < good {
		t.Error("the failure of b is covered by what came after it")
	}
}

// The steps of the lab itself show the way up and down, whatever the clock said when they began.
func TestUpAndDown(t *testing.T) {
	d := &drawing{run: sample.Rotation(), used: map[string]bool{}}
	d.run.Steps[0].At = 99 * time.Microsecond
	d.scale, _ = newScale(d.run)
	marks := d.placeSteps()
	if first, last := marks[0].Label, marks[len(marks)-1].Label; first != "↑" || last != "↓" {
		t.Errorf("%s at the beginning and %s at the end", first, last)
	}
}

func TestAxis(t *testing.T) {
	for _, length := range []time.Duration{time.Millisecond, 700 * time.Millisecond, 38 * time.Second, 7 * time.Minute, 5 * time.Hour, 100 * 24 * time.Hour} {
		if n := len((scale{to: length}).ticks()); n < 2 || n > 101 {
			t.Errorf("%s: %d ticks", length, n)
		}
	}
}

func TestTook(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 s", 400 * time.Microsecond: "<1 ms", 420 * time.Millisecond: "420 ms", 5800 * time.Millisecond: "5.8 s", 6 * time.Second: "6 s",
		59990 * time.Millisecond: "60 s", 63 * time.Second: "1 min 03 s", 3599900 * time.Millisecond: "60 min 00 s", 3700 * time.Second: "1 h 02 min",
	} {
		var plain []rune
		for _, r := range took(d) {
			if r == '\u00a0' {
				r = ' '
			}
			plain = append(plain, r)
		}
		if string(plain) != want {
			t.Errorf("%d: %q, not %q", d, string(plain), want)
		}
	}
}
