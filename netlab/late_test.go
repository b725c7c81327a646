package netlab

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// What comes in by a link is held up and arrives whole, what goes out is not, and afterwards all is as it was.
func TestHoldUp(t *testing.T) {
	l := buildLab(t, testTopology(2))
	serveOn(t, l.Host("node1"), "198.18.20.11:9002")
	target := netip.MustParseAddrPort("198.18.20.11:9002")
	const delay, jitter = 60 * time.Millisecond, 10 * time.Millisecond
	ctx, end := context.WithCancel(testContext(t))
	defer end()
	ended, ready := make(chan error, 1), make(chan struct{})
	go func() {
		ended <- holdUp(ctx, l.Host("node1"), "eth0", Impairment{Delay: delay, Jitter: jitter}, func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("it ended: %v", err)
	}
	for range 3 {
		if r := ProbeTCP(testContext(t), l.Host("registrar"), target, patience); r.Outcome != OutcomeOpen || r.Elapsed < delay-jitter {
			t.Errorf("a connection to the host: %v, want at least %v", r, delay-jitter)
		}
	}
	if got := ask(t, l.Host("registrar"), "198.18.20.11:9002"); got != "198.18.10.11" {
		t.Errorf("the host saw %s", got)
	}
	wantIntact(t, l, "node1", "node2")
	wantIntact(t, l, "node2", "node1")
	end()
	if err := <-ended; err != nil {
		t.Errorf("its end: %v", err)
	}
	// The quickest of some: a busy machine makes others take longer.
	quickest := time.Hour
	for range 20 {
		if r := ProbeTCP(testContext(t), l.Host("registrar"), target, patience); r.Outcome == OutcomeOpen {
			quickest = min(quickest, r.Elapsed)
		}
	}
	if quickest >= delay-jitter {
		t.Errorf("when it is over, the quickest of 20 connections takes %v still", quickest)
	}
	wantIntact(t, l, "node2", "node1")
}

// Whoever held packets up may have been killed: its table would drop them for ever.
func TestLetIn(t *testing.T) {
	l := buildLab(t, testTopology(2))
	serveOn(t, l.Host("node1"), "198.18.20.11:9002")
	target := netip.MustParseAddrPort("198.18.20.11:9002")
	if err := dropAt(l.Host("node1"), "eth0"); err != nil {
		t.Fatal(err)
	}
	if r := ProbeTCP(testContext(t), l.Host("registrar"), target, silence); r.Outcome != OutcomeTimeout {
		t.Errorf("with the table alone: %v", r)
	}
	for range 2 {
		if err := letIn(l.Host("node1")); err != nil {
			t.Fatal(err)
		}
	}
	if r := ProbeTCP(testContext(t), l.Host("registrar"), target, patience); r.Outcome != OutcomeOpen {
		t.Errorf("without it: %v", r)
	}
}

func TestHoldUpRefuses(t *testing.T) {
	for want, err := range map[string]error{
		"delay 0s, jitter 0s: want a delay": HoldUp(t.Context(), "eth0", 0, 0, func() {}),
		"no negative jitter":                HoldUp(t.Context(), "eth0", time.Second, -1, func() {}),
	} {
		if err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, context.Canceled) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	l := buildLab(t, testTopology(1))
	if err := holdUp(t.Context(), l.Host("node1"), "eth9", Impairment{Delay: time.Second}, func() {}); err == nil || !strings.Contains(err.Error(), "find it") {
		t.Errorf("a link that is not there: %v", err)
	}
}
