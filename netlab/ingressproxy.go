package netlab

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// TLS alert descriptions (RFC 8446, section 6).
const (
	alertDecodeError      = 50
	alertMissingExtension = 109 // section 9.2: for a server that needs a server name
	alertUnrecognizedName = 112 // RFC 6066, section 3
)

const (
	// refuseTimeout is how long a client may take to read why it is refused.
	refuseTimeout = time.Second
	// acceptRetry is the pause after a failed accept, such as when the process
	// has no file descriptors left.
	acceptRetry = 20 * time.Millisecond
)

// copyBuffers holds the buffers of both directions of all connections.
var copyBuffers = sync.Pool{New: func() any { return new([16 << 10]byte) }}

func (i *Ingress) accept() {
	for {
		c, err := i.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || i.isClosing() {
				return
			}
			i.opts.Log.Warn("ingress accept", "error", err)
			select {
			case <-time.After(acceptRetry):
				continue
			case <-i.ctx.Done():
				return
			}
		}
		i.mu.Lock()
		i.open[c] = struct{}{}
		i.mu.Unlock()
		i.running.Go(func() {
			defer func() {
				c.Close()
				i.mu.Lock()
				defer i.mu.Unlock()
				delete(i.open, c)
			}()
			i.serve(c)
		})
	}
}

func (i *Ingress) isClosing() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.closing
}

// serve handles one client from its first byte to its last.
func (i *Ingress) serve(client net.Conn) {
	client.SetReadDeadline(time.Now().Add(i.opts.HelloTimeout))
	hello := helloReader{r: client, max: i.opts.MaxHello}
	name, err := hello.serverName()
	if err != nil {
		reason, alert := refusal(err)
		i.refuse(client, reason, alert, "error", err)
		return
	}
	host, addr := i.route(name)
	if addr == "" {
		i.refuse(client, ReasonUnknownName, alertUnrecognizedName, "name", name)
		return
	}
	client.SetReadDeadline(time.Time{})

	ctx, cancel := context.WithTimeout(i.ctx, i.opts.DialTimeout)
	backend, err := i.dial(ctx, "tcp", addr)
	cancel()
	counters := i.counters(host)
	if err != nil {
		counters.errors.Add(1)
		i.opts.Log.Warn("ingress backend", "host", host, "client", client.RemoteAddr(), "error", err)
		return
	}
	defer backend.Close()
	counters.connections.Add(1)
	i.opts.Log.Debug("ingress passes", "host", host, "client", client.RemoteAddr(), "backend", addr)
	if err := i.pass(client, backend, hello.raw, counters); err != nil && i.ctx.Err() == nil {
		counters.errors.Add(1)
		i.opts.Log.Debug("ingress connection broke", "host", host, "client", client.RemoteAddr(), "error", err)
	}
}

// route finds the backend for a server name; addr is "" if there is none.
func (i *Ingress) route(name string) (host, addr string) {
	host, err := canonicalHost(name)
	if err != nil {
		return "", ""
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return host, i.routes[host]
}

// hostCounters is a HostStats that many connections may count in at once.
type hostCounters struct {
	connections, bytesIn, bytesOut, errors atomic.Uint64
}

func (i *Ingress) counters(host string) *hostCounters {
	i.mu.Lock()
	defer i.mu.Unlock()
	c := i.hosts[host]
	if c == nil {
		c = new(hostCounters)
		i.hosts[host] = c
	}
	return c
}

// refusal turns a failed reading of the ClientHello into a reason, and the
// alert to send, 0 for none.
func refusal(err error) (Reason, byte) {
	switch {
	case errors.Is(err, errNoSNI):
		return ReasonNoSNI, alertMissingExtension
	case errors.Is(err, errTooLarge):
		return ReasonTooLarge, alertDecodeError
	case errors.Is(err, errNotTLS):
		return ReasonNotTLS, 0 // whoever it is would not understand
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ReasonTimeout, 0
	}
	return ReasonClosed, 0
}

// refuse counts the reason and closes the connection, with a fatal alert if the
// client can understand one.
func (i *Ingress) refuse(client net.Conn, reason Reason, alert byte, detail ...any) {
	i.mu.Lock()
	i.refused[reason]++
	i.mu.Unlock()
	i.opts.Log.Info("ingress refuses", append([]any{"reason", string(reason), "client", client.RemoteAddr()}, detail...)...)
	if alert == 0 {
		return
	}
	client.SetDeadline(time.Now().Add(refuseTimeout))
	const recordAlert, levelFatal = 21, 2
	if _, err := client.Write([]byte{recordAlert, 3, 3, 0, 2, levelFatal, alert}); err != nil {
		return
	}
	// To close with bytes unread would send a reset, which can overtake the
	// alert. So let the client close first, for as long as the deadline allows.
	if closeWrite(client) == nil {
		io.CopyN(io.Discard, client, int64(i.opts.MaxHello))
	}
}

// pass copies both ways until both directions have ended, each by itself: a
// side that has said all may still listen.
func (i *Ingress) pass(client, backend net.Conn, hello []byte, counters *hostCounters) error {
	closeBoth := func() {
		backend.Close()
		client.Close()
	}
	stop := context.AfterFunc(i.ctx, closeBoth)
	defer stop()
	var idle atomic.Bool
	timer := time.AfterFunc(i.opts.IdleTimeout, func() {
		idle.Store(true)
		closeBoth()
	})
	defer timer.Stop()

	if _, err := backend.Write(hello); err != nil {
		return err
	}
	counters.bytesIn.Add(uint64(len(hello)))

	var ended atomic.Bool // one direction has ended in order
	oneWay := func(dst, src net.Conn, counter *atomic.Uint64) error {
		err := i.copyOneWay(dst, src, timer, counter)
		if err == nil {
			ended.Store(true)
			return nil
		}
		closeBoth() // what one side can no longer get, the other need no longer send
		if ended.Load() && isReset(err) {
			return nil // how many a program hangs up after it has said and heard all
		}
		return err
	}
	var outward error
	var done sync.WaitGroup
	done.Go(func() { outward = oneWay(client, backend, &counters.bytesOut) })
	inward := oneWay(backend, client, &counters.bytesIn)
	done.Wait()
	if idle.Load() {
		return errors.New("idle for too long")
	}
	return errors.Join(inward, outward)
}

// copyOneWay copies until src ends, then half-closes dst.
func (i *Ingress) copyOneWay(dst, src net.Conn, idle *time.Timer, counter *atomic.Uint64) error {
	buf := copyBuffers.Get().(*[16 << 10]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := src.Read(buf[:])
		if n > 0 {
			idle.Reset(i.opts.IdleTimeout)
			if _, err := dst.Write(buf[:n]); err != nil {
				return err
			}
			counter.Add(uint64(n))
		}
		if err == io.EOF {
			return closeWrite(dst)
		}
		if err != nil {
			return err
		}
	}
}

// closeWrite says that no more will be sent. A connection that cannot be
// half-closed is left open: the end of the other direction closes it.
func closeWrite(c net.Conn) error {
	h, ok := c.(interface{ CloseWrite() error })
	if !ok {
		return nil
	}
	err := h.CloseWrite()
	if errors.Is(err, unix.ENOTCONN) {
		return nil // the peer is gone altogether: nobody to tell
	}
	return err
}

func isReset(err error) bool {
	return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}
