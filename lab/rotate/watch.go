package rotate

import (
	"context"
	"slices"
	"sync"
	"time"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/report"
)

// defaultPoll is how often the lab is asked for the nodes' states.
const defaultPoll = 200 * time.Millisecond

// watch sees when each node was attested.
type watch struct {
	start time.Time
	poll  time.Duration
	end   context.CancelFunc
	done  chan struct{}

	mu    sync.Mutex
	order []string
	seen  map[string]*seen
}

// seen is what was seen of one node. Times are from the start of the rotation.
type seen struct {
	count, failures int
	good            int           // attestations seen
	last            time.Duration // when the last one was
	gap, gapAt      time.Duration // the longest between two
	failed          bool
}

// newWatch begins to watch a lab whose nodes were so at the start.
func newWatch(l Lab, at control.Status, start time.Time, poll time.Duration) *watch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{start: start, poll: poll, end: cancel, done: make(chan struct{}), seen: map[string]*seen{}}
	w.note(at, 0)
	go func() {
		defer close(w.done)
		tick := time.NewTicker(poll)
		defer tick.Stop()
		for {
			// A lab that does not answer is seen as a gap.
			if status, err := l.Status(ctx); err == nil {
				w.note(status, time.Since(start))
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return w
}

func (w *watch) stop() {
	w.end()
	<-w.done
}

// note takes one look at the nodes. A count that went down is that of an agent that was enrolled anew.
func (w *watch) note(status control.Status, at time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range status.Nodes {
		s := w.seen[n.Name]
		if s == nil {
			s = &seen{count: n.AttestationCount}
			w.seen[n.Name] = s
			w.order = append(w.order, n.Name)
		}
		if n.AttestationCount > s.count || n.AttestationCount > 0 && n.AttestationCount < s.count {
			s.lapse(at)
			s.good, s.last = s.good+1, at
		}
		s.count = n.AttestationCount
		failed := n.State == fleet.StateFailed
		if failed && !s.failed {
			s.failures++
		}
		s.failed = failed
	}
}

// lapse ends the time since the last attestation, or since the start.
func (s *seen) lapse(at time.Duration) {
	if at-s.last > s.gap {
		s.gap, s.gapAt = at-s.last, s.last
	}
}

// gaps are the longest times without a good attestation, up to now.
func (w *watch) gaps(refused []Refusal) []report.Gap {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := []report.Gap{}
	for _, name := range w.order {
		s := *w.seen[name]
		s.lapse(time.Since(w.start))
		g := report.Gap{Node: name, Longest: s.gap, At: s.gapAt, Failures: s.failures, Count: s.good}
		for _, r := range refused {
			if r.Node == name {
				g.Refusals++
			}
		}
		list = append(list, g)
	}
	return list
}

// attestedAgain waits until every node that has been attested is so once more, or ctx ends, and names those that were.
func (w *watch) attestedAgain(ctx context.Context) []string {
	now := func() map[string]int {
		w.mu.Lock()
		defer w.mu.Unlock()
		good := map[string]int{}
		for _, name := range w.order {
			if s := w.seen[name]; s.count > 0 {
				good[name] = s.good
			}
		}
		return good
	}
	tick := time.NewTicker(w.poll)
	defer tick.Stop()
	before := now()
	for {
		var again []string
		good := now()
		for name := range before {
			if good[name] > before[name] {
				again = append(again, name)
			}
		}
		if len(again) == len(before) || ctx.Err() != nil {
			slices.Sort(again)
			return again
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
