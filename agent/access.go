package agent

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// rememberedNonces is how many of the last quotes ServedNonce knows about.
const rememberedNonces = 4096

// maxRevocations is how many revocation notices an agent keeps.
const maxRevocations = 16

// Access describes one served request.
type Access struct {
	Time       time.Time     // when it arrived
	Duration   time.Duration // until it was answered
	Remote     string        // host:port of the peer
	Client     string        // common name of the client's certificate
	ServerName string        // TLS server name (SNI); "" if the client sent none
	Method     string
	Path       string
	Nonce      string // of quote requests
	Status     int    // HTTP status
}

// Endpoint is a key of Stats.Requests.
type Endpoint struct {
	Path   string // without the API version, e.g. "/quotes/integrity"; "other" if unknown
	Status int    // HTTP status
}

// Stats is what an agent counted since New.
type Stats struct {
	Requests   map[Endpoint]uint64
	Quotes     uint64    // served with status 200
	LastQuote  time.Time // zero: none yet
	TLSRefused uint64    // connections that ended in the TLS handshake
}

// accessBook counts requests and remembers the last nonces, in bounded memory.
type accessBook struct {
	mu      sync.Mutex
	stats   Stats
	nonces  map[string]int
	order   []string // ring of the last quotes' nonces
	next    int      // oldest entry of order, once it is full
	revoked []Revocation
	told    uint64 // how many notices there were
}

func (b *accessBook) request(endpoint Endpoint) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stats.Requests == nil {
		b.stats.Requests = make(map[Endpoint]uint64)
	}
	b.stats.Requests[endpoint]++
}

func (b *accessBook) quote(nonce string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stats.Quotes++
	b.stats.LastQuote = now
	if b.nonces == nil {
		b.nonces = make(map[string]int)
	}
	if len(b.order) < rememberedNonces {
		b.order = append(b.order, nonce)
	} else {
		oldest := b.order[b.next]
		if b.nonces[oldest]--; b.nonces[oldest] == 0 {
			delete(b.nonces, oldest)
		}
		b.order[b.next] = nonce
		b.next = (b.next + 1) % rememberedNonces
	}
	b.nonces[nonce]++
}

// revocation keeps the last maxRevocations notices, and gives this one its number.
func (b *accessBook) revocation(r Revocation) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told++
	r.Number = b.told
	if len(b.revoked) >= maxRevocations {
		b.revoked = b.revoked[1:]
	}
	b.revoked = append(b.revoked, r)
	return r.Number
}

func (b *accessBook) tlsRefused() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stats.TLSRefused++
}

// Stats returns the counts so far.
func (a *Agent) Stats() Stats {
	a.book.mu.Lock()
	defer a.book.mu.Unlock()
	s := a.book.stats
	s.Requests = maps.Clone(s.Requests)
	return s
}

// ServedNonce says how many of the last 4096 quotes this agent served were made
// for nonce. A verifier that reached the right agent finds exactly one.
func (a *Agent) ServedNonce(nonce string) int {
	a.book.mu.Lock()
	defer a.book.mu.Unlock()
	return a.book.nonces[nonce]
}

// Revocations returns the last revocation notices, oldest first, at most 16.
func (a *Agent) Revocations() []Revocation {
	a.book.mu.Lock()
	defer a.book.mu.Unlock()
	return slices.Clone(a.book.revoked)
}
