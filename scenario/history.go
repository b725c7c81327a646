package scenario

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/report"
)

// history is everything that was observed in a run, the oldest first. Times are from the run's start, by the monotonic clock.
type history struct {
	start time.Time

	mu      sync.Mutex
	entries []report.Entry
	polls   []time.Duration // when the lab was asked
	changed chan struct{}   // closed at the next change
	nodes   map[string]control.Node
	parts   map[string]control.Component
	counts  map[string]int // good attestations so far, by node
	told    int            // notices so far
	acted   map[int]bool   // those whose actions have ended, by their place
	down    string         // why the lab could not be asked
}

func newHistory() *history {
	return &history{
		start: time.Now(), changed: make(chan struct{}),
		nodes: map[string]control.Node{}, parts: map[string]control.Component{}, counts: map[string]int{}, acted: map[int]bool{},
	}
}

func (h *history) now() time.Duration { return time.Since(h.start) }

// add notes something. Its time is now.
func (h *history) add(e report.Entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.At = h.now()
	h.note(e)
	h.wake()
}

func (h *history) note(e report.Entry) { h.entries = append(h.entries, e) }

func (h *history) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// observe notes what a poll shows that is new.
func (h *history) observe(at time.Duration, s control.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range s.Nodes {
		was, known := h.nodes[n.Name]
		if !known || was.State != n.State || was.Detail != n.Detail {
			h.note(report.Entry{At: at, Kind: report.EntryState, Node: n.Name, State: n.State, Detail: n.Detail})
		}
		more := n.AttestationCount - was.AttestationCount
		if more < 0 || n.UUID != was.UUID { // it was enrolled anew, and is counted anew
			more = n.AttestationCount
		}
		if more > 0 {
			h.counts[n.Name] += more
			h.note(report.Entry{At: at, Kind: report.EntryAttest, Node: n.Name, Count: h.counts[n.Name]})
		}
		h.nodes[n.Name] = n
	}
	for _, name := range slices.Sorted(maps.Keys(h.nodes)) {
		if !slices.ContainsFunc(s.Nodes, func(n control.Node) bool { return n.Name == name }) {
			h.note(report.Entry{At: at, Kind: report.EntryState, Node: name, State: stateGone})
			delete(h.nodes, name)
		}
	}
	for _, c := range s.Components {
		if was, known := h.parts[c.Name]; !known || was.State != c.State || was.Detail != c.Detail {
			h.note(report.Entry{At: at, Kind: report.EntryLab, Node: c.Name, State: c.State, Detail: c.Detail})
		}
		h.parts[c.Name] = c
	}
	h.down = ""
	h.polls = append(h.polls, at)
	h.wake()
}

// unasked notes that the lab could not be asked, once for each reason.
func (h *history) unasked(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down == err.Error() {
		return
	}
	h.down = err.Error()
	h.note(report.Entry{At: h.now(), Kind: report.EntryPoll, Detail: h.down})
	h.wake()
}

// notices notes those that are new, and the actions that have ended since.
func (h *history) notices(list []control.Notice) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range list[min(h.told, len(list)):] {
		h.note(report.Entry{At: h.now(), Kind: report.EntryNotice, Node: cmp.Or(n.Node, n.Agent), State: n.Receiver, Detail: n.Event})
	}
	h.told = max(h.told, len(list))
	for i, n := range list {
		if len(n.Actions) == 0 || h.acted[i] {
			continue
		}
		h.acted[i] = true
		for _, a := range n.Actions {
			how := wellEnded(a.Name)
			if !a.OK {
				how = fmt.Sprintf("the action %s failed: %s", a.Name, a.Problem)
			}
			h.note(report.Entry{At: h.now(), Kind: report.EntryNotice, Node: cmp.Or(n.Node, n.Agent), State: n.Receiver, Detail: n.Event + actionMark + how})
		}
	}
	h.wake()
}

// actionMark is between the event of a notice and what became of an action.
const actionMark = "; "

func wellEnded(action string) string { return "the action " + action + " ended well" }

// view is the history at one moment, for judging it.
type view struct {
	entries []report.Entry
	polls   []time.Duration
	down    string
}

func (h *history) view() (view, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return view{slices.Clip(h.entries), slices.Clip(h.polls), h.down}, h.changed
}

// wait returns when judge is content, with its word; or when ctx ends, with its last one.
func (h *history) wait(ctx context.Context, judge func(view) (ok bool, word string)) (string, error) {
	for {
		v, changed := h.view()
		ok, word := judge(v)
		if ok {
			return word, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if v.down != "" {
				word += "; the lab could not be asked: " + v.down
			}
			return word, context.Cause(ctx)
		}
	}
}

// observed is one thing that held of a node or a component, from a time on.
type observed struct {
	at            time.Duration
	state, detail string
}

// states are what a node, or a component, was seen to be since a time: first what it was then, if it was still seen so after it.
func (v view) states(kind report.EntryKind, name string, since time.Duration) []observed {
	var out []observed
	for _, e := range v.entries {
		if e.Kind != kind || e.Node != name {
			continue
		}
		if e.At < since {
			out = []observed{{since, e.State, e.Detail}}
			continue
		}
		out = append(out, observed{e.At, e.State, e.Detail})
	}
	// What was carried over counts only if a poll of that time still showed it.
	if len(out) > 0 && out[0].at == since {
		next, _ := slices.BinarySearch(v.polls, since)
		if next == len(v.polls) || len(out) > 1 && v.polls[next] >= out[1].at {
			out = out[1:]
		}
	}
	return out
}

// attestations are the times of a node's good ones since a time.
func (v view) attestations(node string, since time.Duration) []time.Duration {
	var out []time.Duration
	last := 0
	for _, e := range v.entries {
		if e.Kind != report.EntryAttest || e.Node != node {
			continue
		}
		for ; last < e.Count; last++ {
			if e.At >= since {
				out = append(out, e.At)
			}
		}
	}
	return out
}

// gaps are how long each node went without a good attestation, from its first one on, until the end, or until it left. Nodes that joined come last.
func (h *history) gaps(nodes []string, end time.Duration) []report.Gap {
	v, _ := h.view()
	nodes = slices.Clone(nodes)
	for _, e := range v.entries {
		if e.Kind == report.EntryState && !slices.Contains(nodes, e.Node) {
			nodes = append(nodes, e.Node)
		}
	}
	var out []report.Gap
	for _, n := range nodes {
		g := report.Gap{Node: n}
		times := v.attestations(n, 0)
		g.Count = len(times)
		left := slices.DeleteFunc(v.states(report.EntryState, n, 0), func(o observed) bool { return o.state != stateGone })
		for i, at := range times {
			next := end
			if i+1 < len(times) {
				next = times[i+1]
			}
			if j := slices.IndexFunc(left, func(o observed) bool { return o.at >= at }); j >= 0 {
				next = min(next, left[j].at)
			}
			if next-at > g.Longest {
				g.Longest, g.At = next-at, at
			}
		}
		for _, s := range v.states(report.EntryState, n, 0) {
			switch s.state {
			case "refused":
				g.Refusals++
			case "failed":
				g.Failures++
			}
		}
		out = append(out, g)
	}
	return out
}

// seconds is a time for people.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
