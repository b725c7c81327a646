package keylabtest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/control"
)

// pollInterval is how often a lab is asked: several times between two quotes of the fastest lab.
const pollInterval = 100 * time.Millisecond

// WaitAttested waits until each of these nodes (none named: every node) has had n good attestations more than when it was called. A node that is enrolled
// anew meanwhile is counted on.
func (l *Lab) WaitAttested(n int, nodes ...string) {
	l.t.Helper()
	first := l.Now()
	for _, node := range nodes {
		l.Node(node)
	}
	more, last := map[string]int{}, first
	word := plural(n, "good attestation")
	if len(nodes) > 0 {
		word += " of " + strings.Join(nodes, ", ")
	} else {
		word += " of every node"
	}
	l.wait(word, func() (bool, string) {
		now, err := l.Status(l.ctx)
		if err != nil {
			return false, err.Error()
		}
		grown(more, last, now)
		last = now
		var missing []string
		for _, node := range now.Nodes {
			if (len(nodes) == 0 || slices.Contains(nodes, node.Name)) && more[node.Name] < n {
				missing = append(missing, fmt.Sprintf("%s has %d and is %s", node.Name, more[node.Name], stateOf(node)))
			}
		}
		return len(missing) == 0 && len(now.Nodes) > 0, strings.Join(missing, "; ")
	})
}

// grown adds what came between two moments.
func grown(more map[string]int, was, now lab.Status) {
	for _, n := range now.Nodes {
		before := control.Node{UUID: n.UUID}
		if i := slices.IndexFunc(was.Nodes, func(o control.Node) bool { return o.Name == n.Name }); i >= 0 {
			before = was.Nodes[i]
		}
		if n.UUID != before.UUID || n.AttestationCount < before.AttestationCount { // enrolled anew, and counted anew
			before.AttestationCount = 0
		}
		more[n.Name] += n.AttestationCount - before.AttestationCount
	}
}

// WaitState waits until a node is in a state, as `keylab status` names it (attested, failed, refused, registered, agent dead, …), and returns it as it then is.
// An attested node need not have been attested anew: see WaitAttested.
func (l *Lab) WaitState(node, want string) (found control.Node) {
	l.t.Helper()
	l.Node(node)
	l.wait(node+" to be "+want, func() (bool, string) {
		s, err := l.Status(l.ctx)
		if err != nil {
			return false, err.Error()
		}
		for _, n := range s.Nodes {
			if n.Name == node {
				found = n
			}
		}
		return found.State == want, node + " is " + stateOf(found)
	})
	return found
}

// wait polls until ok, and stops the test after the lab's timeout (timeouts.ready), with the last word.
func (l *Lab) wait(what string, look func() (ok bool, word string)) {
	l.t.Helper()
	ctx, cancel := context.WithTimeoutCause(l.ctx, l.within, fmt.Errorf("not within %s", l.within))
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		ok, word := look()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			l.t.Fatalf("lab %s: waiting for %s: %v; last: %s", l.Name(), what, context.Cause(ctx), word)
			return
		}
	}
}

func stateOf(n control.Node) string {
	if n.Detail == "" {
		return n.State
	}
	return n.State + " (" + n.Detail + ")"
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
