package netlab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"
)

// Reason says why the ingress turned a connection away.
type Reason string

// The reasons. Only connections that reached no backend are counted by reason;
// a backend that cannot be reached is an error of its host.
const (
	ReasonNoSNI       Reason = "no-sni"       // a ClientHello without a server name (as clients send to an IP address)
	ReasonUnknownName Reason = "unknown-name" // no route for the name; also an IP literal or what is no host name
	ReasonNotTLS      Reason = "not-tls"      // plain text, another protocol, or a malformed ClientHello
	ReasonTimeout     Reason = "timeout"      // no whole ClientHello in time
	ReasonTooLarge    Reason = "too-large"    // a ClientHello of more than MaxHello bytes
	ReasonClosed      Reason = "closed"       // the client went away before its ClientHello was whole: a port scan or a probe
)

// IngressOptions are the limits of an ingress; the zero value of each means the default.
type IngressOptions struct {
	HelloTimeout time.Duration // for the whole ClientHello to arrive; default 10 s
	MaxHello     int           // bytes; default 64 KiB
	DialTimeout  time.Duration // for a backend to accept; default 5 s
	IdleTimeout  time.Duration // without a byte in either direction; default 5 min
	DrainTimeout time.Duration // that Close waits for open connections to end; default 2 s
	Log          *slog.Logger  // nil: no log
}

func (o IngressOptions) withDefaults() IngressOptions {
	setDefault := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	setDefault(&o.HelloTimeout, 10*time.Second)
	setDefault(&o.DialTimeout, 5*time.Second)
	setDefault(&o.IdleTimeout, 5*time.Minute)
	setDefault(&o.DrainTimeout, 2*time.Second)
	if o.MaxHello <= 0 {
		o.MaxHello = 64 << 10
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// DialFunc connects to a backend; [Namespace.DialContext] is one.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// IngressStats is what an ingress has seen since it began.
type IngressStats struct {
	ByHost  map[string]HostStats `json:"byHost"`  // by host name, also of routes since removed
	Refused map[Reason]uint64    `json:"refused"` // connections that no backend saw
	Active  int                  `json:"active"`  // connections open now
}

// HostStats counts one host name's connections.
type HostStats struct {
	Connections uint64 `json:"connections"` // that reached the backend
	BytesIn     uint64 `json:"bytesIn"`     // from clients, the ClientHello included
	BytesOut    uint64 `json:"bytesOut"`    // to clients
	Errors      uint64 `json:"errors"`      // backend not reachable, or a connection that broke or fell idle
}

// Ingress takes TLS connections on one address and passes each on, unopened,
// to the backend whose host name the client asked for (server name indication,
// RFC 6066, section 3). It holds no key and changes no byte.
type Ingress struct {
	listener net.Listener
	dial     DialFunc
	opts     IngressOptions
	ctx      context.Context // ends when connections must
	cancel   context.CancelFunc
	running  sync.WaitGroup // accept loop and connections

	mu      sync.Mutex
	stop    func() bool       // unhooks the caller's context
	routes  map[string]string // host name to backend address
	hosts   map[string]*hostCounters
	refused map[Reason]uint64
	open    map[net.Conn]struct{} // clients; closed by force at the end
	closing bool
}

// ServeIngress passes connections of l on until ctx ends or Close is called; l
// becomes the ingress's. It starts without routes, and returns at once.
func ServeIngress(ctx context.Context, l net.Listener, dial DialFunc, opts IngressOptions) *Ingress {
	i := &Ingress{
		listener: l,
		dial:     dial,
		opts:     opts.withDefaults(),
		routes:   map[string]string{},
		hosts:    map[string]*hostCounters{},
		refused:  map[Reason]uint64{},
		open:     map[net.Conn]struct{}{},
	}
	i.ctx, i.cancel = context.WithCancel(context.WithoutCancel(ctx))
	i.running.Go(i.accept)
	i.mu.Lock()
	i.stop = context.AfterFunc(ctx, func() { i.Close() })
	i.mu.Unlock()
	return i
}

// Addr is the address that the ingress listens on.
func (i *Ingress) Addr() net.Addr { return i.listener.Addr() }

// SetRoute sends connections for a host name to the backend at addr
// (host:port, as its dial function takes it) from now on; connections that are
// open stay where they are. A name has one route; wildcards are not understood.
func (i *Ingress) SetRoute(hostname, addr string) error {
	host, err := checkRoute(hostname, addr)
	if err != nil {
		return fmt.Errorf("ingress: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.routes[host] = addr
	return nil
}

// RemoveRoute refuses the host name from now on, and says whether it had a route.
func (i *Ingress) RemoveRoute(hostname string) bool {
	host, err := canonicalHost(hostname)
	if err != nil {
		return false
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	_, had := i.routes[host]
	delete(i.routes, host)
	return had
}

// ReplaceRoutes sets the whole table in one step. A fault in it changes nothing.
func (i *Ingress) ReplaceRoutes(routes map[string]string) error {
	table := make(map[string]string, len(routes))
	var errs []error
	for hostname, addr := range routes {
		host, err := checkRoute(hostname, addr)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if _, twice := table[host]; twice {
			errs = append(errs, fmt.Errorf("host name %q: two routes", host))
		}
		table[host] = addr
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("ingress: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.routes = table
	return nil
}

// Routes returns the table: host names in lower case to backend addresses.
func (i *Ingress) Routes() map[string]string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return maps.Clone(i.routes)
}

// Stats returns a copy of the counters.
func (i *Ingress) Stats() IngressStats {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := IngressStats{ByHost: make(map[string]HostStats, len(i.hosts)), Refused: maps.Clone(i.refused), Active: len(i.open)}
	for name, c := range i.hosts {
		s.ByHost[name] = HostStats{
			Connections: c.connections.Load(),
			BytesIn:     c.bytesIn.Load(),
			BytesOut:    c.bytesOut.Load(),
			Errors:      c.errors.Load(),
		}
	}
	return s
}

// Close takes no more connections, waits up to DrainTimeout for the open ones
// to end, and then ends them.
func (i *Ingress) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), i.opts.DrainTimeout)
	defer cancel()
	if err := i.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// Shutdown takes no more connections and waits for the open ones to end. When
// ctx ends first, they are closed by force, and the error is the context's.
// Either way nothing of the ingress runs any more when it returns.
func (i *Ingress) Shutdown(ctx context.Context) error {
	i.mu.Lock()
	first := !i.closing
	i.closing = true
	stop := i.stop
	i.mu.Unlock()
	if stop != nil {
		stop()
	}
	var err error
	if first {
		if err = i.listener.Close(); errors.Is(err, net.ErrClosed) {
			err = nil
		}
	}
	drained := make(chan struct{})
	go func() {
		i.running.Wait()
		close(drained)
	}()
	select {
	case <-drained:
	case <-ctx.Done():
		err = errors.Join(err, fmt.Errorf("ingress: connections were open at the end: %w", ctx.Err()))
	}
	i.cancel()
	i.mu.Lock()
	for c := range i.open {
		c.Close()
	}
	i.mu.Unlock()
	<-drained
	return err
}

func checkRoute(hostname, addr string) (string, error) {
	host, err := canonicalHost(hostname)
	if err != nil {
		return "", err
	}
	if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
		return "", fmt.Errorf("host name %q: backend %q: want host:port: %w", hostname, addr, errors.Join(err, errors.New("bad address")))
	}
	return host, nil
}
