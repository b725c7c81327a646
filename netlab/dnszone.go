package netlab

import (
	"net"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// reverseDomain is where the names of IPv4 addresses live (RFC 1035, section 3.5).
const reverseDomain = "in-addr.arpa."

// set adds, changes or (zero address) removes a record and its reverse.
func (z *zoneData) set(name string, a netip.Addr) {
	if old, ok := z.records[name]; ok {
		if rev := reverseName(old); z.reverse[rev] == name {
			delete(z.reverse, rev)
		}
	}
	if !a.IsValid() {
		delete(z.records, name)
		return
	}
	z.records[name] = a
	z.reverse[reverseName(a)] = name
}

func reverseName(a netip.Addr) string {
	rev, err := dns.ReverseAddr(a.String())
	if err != nil {
		return ""
	}
	return rev
}

// answer fills in the reply to one question.
func (z *zoneData) answer(reply *dns.Msg, q dns.Question) {
	name := canonicalName(q.Name)
	if q.Qclass != dns.ClassINET && q.Qclass != dns.ClassANY {
		reply.Rcode = dns.RcodeRefused
		return
	}
	reply.Authoritative = true
	switch {
	case dns.IsSubDomain(reverseDomain, name):
		z.answerReverse(reply, q, name)
	case !z.mine(name):
		reply.Authoritative = false
		reply.Rcode = dns.RcodeRefused
	default:
		z.answerForward(reply, q, name)
	}
}

// mine says whether the server has authority over the name.
func (z *zoneData) mine(name string) bool {
	_, listed := z.records[name]
	return listed || dns.IsSubDomain(z.origin, name)
}

func (z *zoneData) answerForward(reply *dns.Msg, q dns.Question, name string) {
	header := func(kind uint16) dns.RR_Header {
		// The name goes back as it was asked, letter case included: some
		// resolvers mix the case on purpose and check it.
		return dns.RR_Header{Name: q.Name, Rrtype: kind, Class: dns.ClassINET, Ttl: z.ttl}
	}
	address, exists := z.lookup(name)
	switch {
	case address.IsValid() && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY):
		reply.Answer = []dns.RR{&dns.A{Hdr: header(dns.TypeA), A: net.IP(address.AsSlice())}}
	case name == z.origin && q.Qtype == dns.TypeSOA:
		reply.Answer = []dns.RR{z.soa()}
	case name == z.origin && q.Qtype == dns.TypeNS:
		reply.Answer = []dns.RR{&dns.NS{Hdr: header(dns.TypeNS), Ns: z.nameServer()}}
	case exists:
		reply.Ns = []dns.RR{z.soa()} // the name is there, but has no such record (RFC 2308, section 2.2)
	default:
		reply.Rcode = dns.RcodeNameError
		reply.Ns = []dns.RR{z.soa()}
	}
}

// lookup returns a name's address, if it has one, and whether the name exists:
// a name above one that exists does so itself (RFC 8020).
func (z *zoneData) lookup(name string) (address netip.Addr, exists bool) {
	if a, ok := z.records[name]; ok {
		return a, true
	}
	if name != z.domain && dns.IsSubDomain(z.domain, name) && z.wildcard.IsValid() {
		return z.wildcard, true
	}
	if name == z.origin || dns.IsSubDomain(name, z.domain) {
		return netip.Addr{}, true
	}
	for listed := range z.records {
		if dns.IsSubDomain(name, listed) {
			return netip.Addr{}, true
		}
	}
	return netip.Addr{}, false
}

// answerReverse answers for all of in-addr.arpa: a lab has no other name
// server, and a program that looks up a peer's name should not wait for one.
func (z *zoneData) answerReverse(reply *dns.Msg, q dns.Question, name string) {
	host, ok := z.reverse[name]
	switch {
	case !ok:
		reply.Rcode = dns.RcodeNameError
	case q.Qtype == dns.TypePTR || q.Qtype == dns.TypeANY:
		reply.Answer = []dns.RR{&dns.PTR{
			Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: z.ttl},
			Ptr: host,
		}}
	}
}

func (z *zoneData) nameServer() string { return "ns." + z.origin }

// soa is the start-of-authority record that negative answers carry; its
// minimum is how long they may be kept (RFC 2308, section 4).
func (z *zoneData) soa() dns.RR {
	return &dns.SOA{
		Hdr:     dns.RR_Header{Name: z.origin, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: z.ttl},
		Ns:      z.nameServer(),
		Mbox:    "hostmaster." + strings.TrimPrefix(z.origin, "."),
		Serial:  1,
		Refresh: 3600, Retry: 600, Expire: 86400,
		Minttl: z.ttl,
	}
}
