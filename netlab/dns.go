package netlab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Zone is what a [DNS] server answers for. Names are compared without regard
// to case or a trailing dot.
type Zone struct {
	// Domain is the domain whose every name, at any depth, leads to Wildcard:
	// "agents.lab.test" serves a.agents.lab.test and a.b.agents.lab.test.
	Domain string
	// Wildcard is the address of every name below Domain that Records does not
	// name; the zero Addr means that there is no such name.
	Wildcard netip.Addr
	// Records are names with addresses of their own: host names in full, below
	// Domain or not. Each address also answers to its reverse name.
	Records map[string]netip.Addr
	// Origin is the domain that the server has authority over: names in it that
	// are not known do not exist (NXDOMAIN), names outside are refused. Domain
	// must be in it; "" means Domain itself.
	Origin string
	// TTL is how long resolvers may keep an answer, in whole seconds; 0 means that they may not.
	TTL time.Duration
}

// maxCountedNames bounds the memory for counters; queries for further names
// are counted under otherNames.
const (
	maxCountedNames = 20_000
	otherNames      = "(other)"
)

// Query is what a DNS server counts by.
type Query struct {
	Name string // lower case, without the final dot
	Type string // A, AAAA, PTR, …
	Code string // NOERROR, NXDOMAIN, REFUSED, …; (no answer) while it fails in that way
}

// DNS is an authoritative name server (RFC 1034, section 4.3.2) for one zone.
type DNS struct {
	log     *slog.Logger
	servers []*dns.Server
	ended   sync.WaitGroup

	mu      sync.Mutex
	stop    func() bool // unhooks the caller's context
	zone    zoneData
	failure DNSFailure
	counts  map[Query]uint64
	closing bool
}

// DNSFailure is how a server fails on purpose.
type DNSFailure string

// The failures.
const (
	DNSWell     DNSFailure = ""         // not at all
	DNSServfail DNSFailure = "servfail" // it answers every query with SERVFAIL (RFC 1035, section 4.1.1)
	DNSNothing  DNSFailure = "nothing"  // it answers no query
)

// codeNoAnswer is the Code by which queries are counted that got no answer.
const codeNoAnswer = "(no answer)"

// zoneData is a Zone with its names in canonical form.
type zoneData struct {
	domain, origin string
	wildcard       netip.Addr
	records        map[string]netip.Addr
	reverse        map[string]string // in-addr.arpa name to host name
	ttl            uint32
}

// ServeDNS answers queries on the given sockets, which become the server's,
// until ctx ends or Close is called. It returns once all of them are served.
// log may be nil.
func ServeDNS(ctx context.Context, zone Zone, conns []net.PacketConn, listeners []net.Listener, log *slog.Logger) (*DNS, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	data, err := newZoneData(zone)
	if err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	d := &DNS{log: log, zone: data, counts: map[Query]uint64{}}
	for _, c := range conns {
		d.servers = append(d.servers, &dns.Server{PacketConn: c, Handler: d})
	}
	for _, l := range listeners {
		d.servers = append(d.servers, &dns.Server{Listener: l, Handler: d})
	}
	started := make(chan struct{}, len(d.servers))
	failed := make(chan error, len(d.servers))
	for _, s := range d.servers {
		s.NotifyStartedFunc = func() { started <- struct{}{} }
		d.ended.Go(func() {
			if err := s.ActivateAndServe(); err != nil {
				failed <- err
				d.mu.Lock()
				closing := d.closing
				d.mu.Unlock()
				if !closing {
					log.Error("dns server ended", "error", err)
				}
			}
		})
	}
	for range d.servers {
		select {
		case <-started:
		case err := <-failed:
			return nil, errors.Join(fmt.Errorf("dns: serve: %w", err), d.Close())
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("dns: %w", context.Cause(ctx)), d.Close())
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stop = context.AfterFunc(ctx, func() { d.Close() })
	return d, nil
}

// Close ends the server and its sockets. Closing twice returns nil.
func (d *DNS) Close() error {
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		d.ended.Wait()
		return nil
	}
	d.closing = true
	stop := d.stop
	d.mu.Unlock()
	if stop != nil {
		stop()
	}
	for _, s := range d.servers {
		// Shutdown refuses a server that never started, so close its socket too.
		_ = s.Shutdown()
		if s.PacketConn != nil {
			s.PacketConn.Close()
		}
		if s.Listener != nil {
			s.Listener.Close()
		}
	}
	d.ended.Wait()
	return nil
}

// SetWildcard changes the address of all names below the domain.
func (d *DNS) SetWildcard(a netip.Addr) error {
	if err := checkRecordAddr("*", a); err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.zone.wildcard = a
	return nil
}

// SetRecord gives a name an address of its own; the zero Addr takes it away again.
func (d *DNS) SetRecord(name string, a netip.Addr) error {
	if err := checkRecord(name, a); err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.zone.set(canonicalName(name), a)
	return nil
}

// SetFailure makes the server fail from now on, or answer again.
func (d *DNS) SetFailure(f DNSFailure) error {
	switch f {
	case DNSWell, DNSServfail, DNSNothing:
	default:
		return fmt.Errorf("dns: a server can fail by %q and %q, not by %q", DNSServfail, DNSNothing, f)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failure = f
	return nil
}

// Queries returns how often each name was asked for and with what result.
func (d *DNS) Queries() map[Query]uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.counts)
}

// ServeDNS answers one query; it is what makes a DNS a dns.Handler.
func (d *DNS) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	reply := new(dns.Msg)
	// Uncompressed, the longest name would not fit twice into the 512 bytes that every client takes (RFC 1035, section 4.2.1).
	reply.Compress = true
	switch {
	case req.Opcode != dns.OpcodeQuery:
		reply.SetRcode(req, dns.RcodeNotImplemented)
	case len(req.Question) != 1:
		reply.SetRcode(req, dns.RcodeFormatError)
	default:
		reply.SetReply(req)
		if !d.reply(reply, req.Question[0]) {
			return
		}
	}
	if opt := req.IsEdns0(); opt != nil {
		reply.SetEdns0(dns.DefaultMsgSize, false) // RFC 6891, section 6.1.1: answer OPT with OPT
	}
	if err := w.WriteMsg(reply); err != nil {
		d.log.Debug("dns reply", "to", w.RemoteAddr(), "error", err)
	}
}

// reply fills in the reply to one question, and counts it; it is false when there is to be none.
func (d *DNS) reply(reply *dns.Msg, q dns.Question) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch d.failure {
	case DNSNothing:
		d.countLocked(q, codeNoAnswer)
		return false
	case DNSServfail:
		reply.Rcode = dns.RcodeServerFailure
	default:
		d.zone.answer(reply, q)
	}
	d.countLocked(q, dns.RcodeToString[reply.Rcode])
	return true
}

func (d *DNS) countLocked(q dns.Question, code string) {
	key := Query{
		Name: strings.TrimSuffix(dns.CanonicalName(q.Name), "."),
		Type: dns.TypeToString[q.Qtype],
		Code: code,
	}
	if _, known := d.counts[key]; !known && len(d.counts) >= maxCountedNames {
		key.Name = otherNames
	}
	d.counts[key]++
}

// ResolvConf is the text of a resolv.conf(5) that asks the one name server,
// quickly, and tries a name as it is before it tries the search domains.
func ResolvConf(nameserver netip.Addr, search ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "nameserver %s\n", nameserver)
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	b.WriteString("options timeout:2 attempts:2 ndots:1\n")
	return b.String()
}

func newZoneData(z Zone) (zoneData, error) {
	data := zoneData{
		domain:   canonicalName(z.Domain),
		origin:   canonicalName(z.Origin),
		wildcard: z.Wildcard,
		records:  map[string]netip.Addr{},
		reverse:  map[string]string{},
		ttl:      uint32(z.TTL / time.Second),
	}
	if z.Origin == "" {
		data.origin = data.domain
	}
	var errs []error
	if _, ok := dns.IsDomainName(data.domain); !ok || data.domain == "." {
		errs = append(errs, fmt.Errorf("domain %q is no domain name", z.Domain))
	}
	if !dns.IsSubDomain(data.origin, data.domain) {
		errs = append(errs, fmt.Errorf("domain %q is not in the origin %q", z.Domain, z.Origin))
	}
	if z.TTL < 0 || z.TTL > 1<<31*time.Second-1 {
		errs = append(errs, fmt.Errorf("TTL %v: want 0 to 2^31-1 seconds (RFC 2181, section 8)", z.TTL))
	}
	if z.Wildcard.IsValid() {
		errs = append(errs, checkRecordAddr("*", z.Wildcard))
	}
	for _, name := range slices.Sorted(maps.Keys(z.Records)) {
		if err := checkRecord(name, z.Records[name]); err != nil {
			errs = append(errs, err)
			continue
		}
		data.set(canonicalName(name), z.Records[name])
	}
	return data, errors.Join(errs...)
}

func checkRecord(name string, a netip.Addr) error {
	if _, ok := dns.IsDomainName(name); !ok || canonicalName(name) == "." {
		return fmt.Errorf("record %q is no domain name", name)
	}
	return checkRecordAddr(name, a)
}

// checkRecordAddr accepts IPv4, and the zero Addr for "none".
func checkRecordAddr(name string, a netip.Addr) error {
	if a.IsValid() && !a.Is4() {
		return fmt.Errorf("record %q: address %v is not IPv4", name, a)
	}
	return nil
}

// canonicalName is lower case with a final dot.
func canonicalName(s string) string { return dns.CanonicalName(s) }
