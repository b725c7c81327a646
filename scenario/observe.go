package scenario

import (
	"context"
	"time"

	"keylab.dev/keylab/report"
)

// How often a lab is asked how it is: five times between two quotes, within bounds, since each answer is work for the verifier too. Counters and
// notices, which are more work to get, come once a second.
const (
	looksPerQuote = 5
	pollAtLeast   = 100 * time.Millisecond
	pollAtMost    = 200 * time.Millisecond
	rarely        = time.Second
)

// pollInterval is that of a lab whose nodes are asked for quotes so often; zero means the default.
func pollInterval(quotes time.Duration) time.Duration {
	if quotes == 0 {
		return pollAtMost
	}
	return min(pollAtMost, max(pollAtLeast, quotes/looksPerQuote))
}

// observe records the lab until ctx ends.
func (r *runner) observe(ctx context.Context) {
	interval := pollInterval(time.Duration(r.scenario.Lab.Keylime.QuoteInterval))
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var before map[string]uint64
	for i := 0; ; i++ {
		began := time.Now()
		status, err := r.lab.Status(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.history.unasked(err)
		} else {
			r.history.observe(r.history.now(), status)
		}
		if i%int(rarely/interval) == 0 {
			before = r.count(ctx, before)
			if list, err := r.lab.Notices(ctx); err == nil {
				r.history.notices(list)
			}
		}
		r.polls.Add(1)
		r.polling.Add(int64(time.Since(began)))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// count notes by how much the network's counters grew since the last time.
func (r *runner) count(ctx context.Context, before map[string]uint64) map[string]uint64 {
	now, err := r.counters(ctx)
	if err != nil {
		return before
	}
	deltas := map[string]uint64{}
	for name, n := range now {
		if before != nil && n > before[name] {
			deltas[name] = n - before[name]
		}
	}
	if len(deltas) > 0 {
		r.history.add(report.Entry{Kind: report.EntryCounter, Deltas: deltas})
	}
	return now
}

// counters are all that the network counts, by name.
func (r *runner) counters(ctx context.Context) (map[string]uint64, error) {
	m, err := r.lab.Mark(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string]uint64{"ingress refused": m.Refused}
	for prefix, counted := range map[string]map[string]uint64{"router ": m.Router, "ingress ": m.Forwarded, "arrived ": m.Arrivals, "dns ": m.DNS} {
		for name, n := range counted {
			all[prefix+name] = n
		}
	}
	return all, nil
}
