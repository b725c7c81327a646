package netlab

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// Outcome is how a probe ended.
type Outcome string

// The outcomes. OutcomeRefused and OutcomeUnreachable both mean that an answer came back,
// though not the one wished for: the target, or something before it, can be
// reached. Only OutcomeTimeout is silence.
const (
	OutcomeOpen        Outcome = "open"        // connected, or answered
	OutcomeRefused     Outcome = "refused"     // TCP reset or ICMP port unreachable
	OutcomeTimeout     Outcome = "timeout"     // no answer within the time given
	OutcomeUnreachable Outcome = "unreachable" // no route, no neighbour, or an ICMP network or host unreachable
	OutcomeFailed      Outcome = "error"       // the probe itself could not be made
)

// ProbeResult is what a probe found.
type ProbeResult struct {
	Outcome Outcome
	Err     error         // nil only if the outcome is OutcomeOpen
	Elapsed time.Duration // from the first packet to the outcome
}

func (r ProbeResult) String() string {
	if r.Err == nil {
		return fmt.Sprintf("%s after %v", r.Outcome, r.Elapsed.Round(time.Millisecond))
	}
	return fmt.Sprintf("%s after %v: %v", r.Outcome, r.Elapsed.Round(time.Millisecond), r.Err)
}

// ProbeTCP tries to connect from the namespace to addr, and closes at once.
// A timeout of 3 s or more lets the kernel find out that a neighbour does not
// answer ARP, which makes OutcomeUnreachable of what is else OutcomeTimeout.
func ProbeTCP(ctx context.Context, ns *Namespace, addr netip.AddrPort, timeout time.Duration) ProbeResult {
	s, err := ns.socket(ctx, "tcp", addr.String())
	if err != nil {
		return notMade(ctx, err)
	}
	defer s.Close()
	return probe(ctx, timeout, s.connect)
}

// ProbeUDP sends payload from the namespace to addr and waits for any answer
// from there: UDP does not tell an open port from a silent one, so only an
// answer makes OutcomeOpen.
func ProbeUDP(ctx context.Context, ns *Namespace, addr netip.AddrPort, payload []byte, timeout time.Duration) ProbeResult {
	c, err := ns.DialContext(ctx, "udp", addr.String())
	if err != nil {
		return notMade(ctx, err)
	}
	defer c.Close()
	return probe(ctx, timeout, func(ctx context.Context) error {
		defer closeDeadline(ctx, c)()
		if _, err := c.Write(payload); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 64<<10))
		if errors.Is(err, os.ErrDeadlineExceeded) && answerWaits(c) {
			return nil
		}
		return err
	})
}

// answerWaits tells whether a datagram has come that nobody has read: on a machine that stood still, the deadline may be seen before the answer that had
// come in time.
func answerWaits(c net.Conn) (waits bool) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) {
		_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_DONTWAIT|unix.MSG_PEEK)
		waits = err == nil
	})
	return waits && err == nil
}

// ProbeICMP sends one echo request (RFC 792) from the namespace to addr and
// waits for its reply. It needs CAP_NET_RAW in the namespace's user namespace.
func ProbeICMP(ctx context.Context, ns *Namespace, addr netip.Addr, timeout time.Duration) ProbeResult {
	c, err := ns.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return notMade(ctx, err)
	}
	defer c.Close()
	return probe(ctx, timeout, func(ctx context.Context) error {
		defer closeDeadline(ctx, c)()
		// The identifier and the data tell this probe's reply from others': a raw socket hears all.
		data := make([]byte, 18)
		rand.Read(data)
		echo := icmp.Echo{ID: int(binary.BigEndian.Uint16(data)), Seq: 1, Data: data[2:]}
		request := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &echo}
		packet, err := request.Marshal(nil)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(packet, &net.IPAddr{IP: addr.AsSlice()}); err != nil {
			return err
		}
		buf := make([]byte, 64<<10)
		for {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				return err
			}
			if done, err := matchEcho(buf[:n], &echo, packet); done {
				return err
			}
		}
	})
}

// matchEcho says whether an ICMP message answers the echo request, and how.
func matchEcho(message []byte, echo *icmp.Echo, request []byte) (bool, error) {
	m, err := icmp.ParseMessage(1, message)
	if err != nil {
		return false, nil // somebody else's
	}
	switch body := m.Body.(type) {
	case *icmp.Echo:
		return m.Type == ipv4.ICMPTypeEchoReply && body.ID == echo.ID && string(body.Data) == string(echo.Data), nil
	case *icmp.DstUnreach:
		// The body quotes the offending packet: its IP header and at least 8 bytes more.
		h, err := icmp.ParseIPv4Header(body.Data)
		if err != nil || len(body.Data) < h.Len+8 || string(body.Data[h.Len:h.Len+8]) != string(request[:8]) {
			return false, nil
		}
		return true, os.NewSyscallError(fmt.Sprintf("icmp unreachable (code %d)", m.Code), unix.EHOSTUNREACH)
	}
	return false, nil
}

// notMade is the result of a probe that has sent nothing.
func notMade(ctx context.Context, err error) ProbeResult {
	return ProbeResult{Outcome: classify(ctx, err), Err: err}
}

// probe has f send a packet and wait for what comes of it. The time limit is for that alone: a busy machine may take long to make a socket in a namespace.
func probe(ctx context.Context, timeout time.Duration, f func(context.Context) error) ProbeResult {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	err := f(ctx)
	return ProbeResult{Outcome: classify(ctx, err), Err: err, Elapsed: time.Since(start)}
}

func classify(ctx context.Context, err error) Outcome {
	switch {
	case err == nil:
		return OutcomeOpen
	case errors.Is(ctx.Err(), context.Canceled):
		return OutcomeFailed // the caller gave up; this says nothing about the network
	case errors.Is(err, unix.ECONNREFUSED):
		return OutcomeRefused
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		return OutcomeUnreachable
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.ETIMEDOUT):
		return OutcomeTimeout
	}
	return OutcomeFailed
}

// closeDeadline ends reads and writes on c when ctx ends; the caller calls the
// returned function when it is done with c.
func closeDeadline(ctx context.Context, c interface{ SetDeadline(time.Time) error }) func() bool {
	if d, ok := ctx.Deadline(); ok {
		c.SetDeadline(d)
	}
	return context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
}
