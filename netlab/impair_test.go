package netlab

import (
	"bytes"
	"crypto/rand"
	"io"
	"net/netip"
	"testing"
	"time"
)

func TestImpairDelaysWithoutChangingAnything(t *testing.T) {
	l := buildLab(t, testTopology(2))
	serveOn(t, l.Host("node1"), "198.18.20.11:9002")
	target := netip.MustParseAddrPort("198.18.20.11:9002")
	const delay = 60 * time.Millisecond
	if err := l.Impair("node1", Impairment{Delay: delay, Jitter: 10 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		r := ProbeTCP(testContext(t), l.Host("registrar"), target, patience)
		if r.Outcome != OutcomeOpen || r.Elapsed < 2*(delay-10*time.Millisecond) {
			t.Errorf("a connection to the impaired host: %v, want at least %v", r, 2*(delay-10*time.Millisecond))
		}
	}
	if got := ask(t, l.Host("registrar"), "198.18.20.11:9002"); got != "198.18.10.11" {
		t.Errorf("the impaired host saw %s", got)
	}
	wantIntact(t, l, "node1", "node2") // both directions, and segments that the kernel has still to cut
	wantIntact(t, l, "node2", "node1")
	if s, ok := l.Impaired("node1"); !ok || s.Passed == 0 || s.Lost != 0 {
		t.Errorf("what the cable counted: %+v, %v", s, ok)
	}
	if _, ok := l.Impaired("node2"); ok {
		t.Error("a host that is well has an impairment")
	}
}

func TestImpairLoses(t *testing.T) {
	l := buildLab(t, testTopology(2))
	serveOn(t, l.Host("node1"), "198.18.20.11:9002")
	target := netip.MustParseAddrPort("198.18.20.11:9002")
	if err := l.Impair("node1", Impairment{Loss: 100}); err != nil {
		t.Fatal(err)
	}
	if r := ProbeTCP(testContext(t), l.Host("node2"), target, silence); r.Outcome != OutcomeTimeout {
		t.Errorf("with all packets lost: %v", r)
	}
	if s, _ := l.Impaired("node1"); s.Lost == 0 || s.Passed != 0 {
		t.Errorf("what the cable counted: %+v", s)
	}
	if err := l.Impair("node1", Impairment{Loss: 50}); err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	for s, _ := l.Impaired("node1"); s.Lost == 0 || s.Passed == 0; s, _ = l.Impaired("node1") {
		if ctx.Err() != nil {
			t.Fatalf("half of the packets should be lost, but the cable counted %+v", s)
		}
		ProbeTCP(ctx, l.Host("node2"), target, silence)
	}
	// TCP makes up for what is lost.
	if err := l.Impair("node1", Impairment{Loss: 2}); err != nil {
		t.Fatal(err)
	}
	wantIntact(t, l, "node1", "node2")
}

func TestImpairEnds(t *testing.T) {
	l := buildLab(t, testTopology(2))
	before, err := l.Inspect()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Impair("node1", Impairment{Loss: 100}); err != nil {
		t.Fatal(err)
	}
	// A cable that is pulled while it is bad works again afterwards.
	for _, step := range []func() error{
		func() error { return l.Partition("node1") },
		func() error { return l.Heal("node1") },
		func() error { return l.Impair("node1", Impairment{Delay: time.Millisecond}) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	wantIntact(t, l, "node1", "node2")
	if err := l.Partition("node1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Heal("node1"); err != nil {
		t.Fatal(err)
	}
	wantIntact(t, l, "node1", "node2")
	for range 2 {
		if err := l.Impair("node1", Impairment{}); err != nil {
			t.Fatal(err)
		}
	}
	wantIntact(t, l, "node1", "node2")
	after, err := l.Inspect()
	if err != nil {
		t.Fatal(err)
	}
	if len(after.Networks[1].Ports) != len(before.Networks[1].Ports) {
		t.Errorf("ports of the switch: %v, before %v", after.Networks[1].Ports, before.Networks[1].Ports)
	}
	if err := l.Impair("nobody", Impairment{Loss: 1}); err == nil {
		t.Error("a host that is not there was impaired")
	}
	if err := l.Impair("node1", Impairment{Loss: 101}); err == nil {
		t.Error("more than all packets were lost")
	}
	if err := l.Impair("node1", Impairment{Delay: time.Hour}); err != nil { // taken away with the lab, without waiting for the packets
		t.Fatal(err)
	}
	if r := ProbeTCP(testContext(t), l.Host("node1"), netip.MustParseAddrPort("198.18.20.12:1"), silence); r.Outcome != OutcomeTimeout {
		t.Errorf("with a delay of an hour: %v", r)
	}
}

// wantIntact sends a megabyte from one host to another and wants it to arrive as it was.
func wantIntact(t *testing.T, l *Lab, from, to string) {
	t.Helper()
	address := map[string]string{"node1": "198.18.20.11:7", "node2": "198.18.20.12:7"}[to]
	listener, err := l.Host(to).Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	sent := make([]byte, 1<<20)
	rand.Read(sent)
	go func() {
		c, err := l.Host(from).DialContext(testContext(t), "tcp", address)
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Write(sent)
	}()
	c, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%s to %s: %d bytes of %d arrived, %v", from, to, len(got), len(sent), err)
	}
}
