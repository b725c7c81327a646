package netlab

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// echoUDP sends every packet back.
func echoUDP(t testing.TB, ns *Namespace, addr string) {
	t.Helper()
	c, err := ns.ListenPacket("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo(buf[:n], from)
		}
	}()
}

func TestProbeOutcomes(t *testing.T) {
	l := buildLab(t, testTopology(2))
	ctx, node := testContext(t), l.Host("node1")
	serveOn(t, l.Host("node2"), ":80")
	echoUDP(t, l.Host("node2"), ":53")
	mute, err := l.Host("node2").ListenPacket("udp4", ":54")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mute.Close() })
	tcp := func(addr string) ProbeResult { return ProbeTCP(ctx, node, netip.MustParseAddrPort(addr), patience) }
	udp := func(addr string) ProbeResult {
		timeout := patience
		if strings.HasSuffix(addr, ":54") {
			timeout = silence
		}
		return ProbeUDP(ctx, node, netip.MustParseAddrPort(addr), []byte("hello"), timeout)
	}
	ping := func(addr string) ProbeResult { return ProbeICMP(ctx, node, netip.MustParseAddr(addr), patience) }
	for _, c := range []struct {
		name  string
		probe func(string) ProbeResult
		addr  string
		want  Outcome
	}{
		{"tcp, served", tcp, "198.18.20.12:80", OutcomeOpen},
		{"tcp, not served", tcp, "198.18.20.12:81", OutcomeRefused},
		{"tcp, no such neighbour", tcp, "198.18.20.99:80", OutcomeUnreachable},
		{"tcp, no route", tcp, "198.19.0.1:80", OutcomeUnreachable},
		{"udp, answered", udp, "198.18.20.12:53", OutcomeOpen},
		{"udp, mute", udp, "198.18.20.12:54", OutcomeTimeout},
		{"udp, not served", udp, "198.18.20.12:55", OutcomeRefused},
		{"ping", ping, "198.18.20.12", OutcomeOpen},
		{"ping, no route", ping, "198.19.0.1", OutcomeUnreachable},
		{"ping, no route at the router", ping, "198.18.10.99", OutcomeUnreachable},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := c.probe(c.addr); got.Outcome != c.want || (got.Err == nil) != (c.want == OutcomeOpen) {
				t.Errorf("%s: %v, want %s", c.addr, got, c.want)
			}
		})
	}
}

func TestSharedSegment(t *testing.T) {
	l := buildLab(t, testTopology(2))
	check := func(when, a, b string, want bool, evidence string) {
		t.Helper()
		seg, err := l.SharedSegment(testContext(t), a, b, silence)
		if err != nil {
			t.Fatal(err)
		}
		if seg.Shared != want || !strings.Contains(strings.Join(seg.Evidence, "\n"), evidence) {
			t.Errorf("%s, %s and %s: shared %v, want %v with %q in:\n%s", when, a, b, seg.Shared, want, evidence, strings.Join(seg.Evidence, "\n"))
		}
	}
	check("as built", "registrar", "node1", false, "ARP from registrar eth0 for 198.18.20.11 of node1: no answer")
	check("as built", "node1", "node2", true, "answered by 02:4b:c6:12:14:0c")
	check("as built", "node1", "node2", true, "both in the switch of network cluster")
	check("as built", "node1", "router", true, "answered by 02:4b:c6:12:14:02")

	undo, err := l.Bridge("services", "cluster")
	if err != nil {
		t.Fatal(err)
	}
	check("flat", "registrar", "node1", true, "ARP from registrar eth0 for 198.18.20.11 of node1: answered by 02:4b:c6:12:14:0b")
	check("flat", "registrar", "node1", true, "has learnt")
	for range 2 {
		if err := undo(); err != nil {
			t.Fatal(err)
		}
	}
	check("flat no more", "registrar", "node1", false, "no answer")
}

func TestPartitionAndHeal(t *testing.T) {
	l := buildLab(t, testTopology(2))
	serveOn(t, l.Host("node1"), ":9002")
	ask(t, l.Host("node2"), "198.18.20.11:9002")
	if err := l.Partition("node1"); err != nil {
		t.Fatal(err)
	}
	if got := probeTCP(t, l, "node2", "198.18.20.11:9002"); got != OutcomeTimeout {
		t.Errorf("to the partitioned host: %s", got)
	}
	if _, err := ProbeARP(testContext(t), l.Host("node2"), "eth0", nodeAddr(1), silence); err == nil {
		t.Error("the partitioned host answered ARP")
	}
	if err := l.Heal("node1"); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, l.Host("node2"), "198.18.20.11:9002"); got != "198.18.20.12" {
		t.Errorf("the healed host saw %s", got)
	}
	if err := l.Partition("nobody"); err == nil {
		t.Error("a host that is not there was partitioned")
	}
}

// On a machine that stood still, the deadline of a probe may be seen before the answer that came in time.
func TestProbeSeesAnswerBehindDeadline(t *testing.T) {
	l := buildLab(t, testTopology(1))
	node := l.Host("node1")
	over, cancel := context.WithDeadline(testContext(t), time.Unix(1, 0))
	defer cancel()

	serveOn(t, node, ":80")
	s, err := node.socket(testContext(t), "tcp", "127.0.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.connect(over); err != nil {
		t.Errorf("a connection that was answered: %v", err)
	}

	peer, err := node.ListenPacket("udp4", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	c, err := node.DialContext(testContext(t), "udp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if answerWaits(c) {
		t.Error("nobody has answered")
	}
	if _, err := peer.WriteTo([]byte("late"), c.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if !answerWaits(c) {
		t.Error("the answer is not seen")
	}
}
