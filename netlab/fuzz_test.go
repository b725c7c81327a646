package netlab

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// replyWriter keeps the one reply.
type replyWriter struct {
	dns.ResponseWriter
	reply *dns.Msg
}

func (w *replyWriter) WriteMsg(m *dns.Msg) error { w.reply = m; return nil }
func (w *replyWriter) RemoteAddr() net.Addr      { return &net.UDPAddr{} }

// FuzzDNS: every query that can be read has a reply that can be sent, to the same question, with addresses of the lab alone.
func FuzzDNS(f *testing.F) {
	lab := netip.MustParsePrefix("198.18.0.0/15")
	data, err := newZoneData(Zone{Origin: "lab.test", Domain: "agents.lab.test", Wildcard: netip.MustParseAddr("198.18.20.200"),
		Records: map[string]netip.Addr{"registrar.lab.test": netip.MustParseAddr("198.18.10.11")}})
	if err != nil {
		f.Fatal(err)
	}
	for _, q := range []struct {
		name string
		kind uint16
	}{{"a.agents.lab.test.", dns.TypeA}, {"registrar.lab.test.", dns.TypeANY}, {"lab.test.", dns.TypeSOA}, {"11.10.18.198.in-addr.arpa.", dns.TypePTR},
		{"example.", dns.TypeAAAA}} {
		m := new(dns.Msg).SetQuestion(q.name, q.kind).SetEdns0(1232, false)
		packed, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
	}
	d := &DNS{log: slog.New(slog.DiscardHandler), zone: data, counts: map[Query]uint64{}}
	f.Fuzz(func(t *testing.T, packet []byte) {
		query := new(dns.Msg)
		if query.Unpack(packet) != nil {
			return
		}
		var w replyWriter
		d.ServeDNS(&w, query)
		if w.reply == nil || w.reply.Id != query.Id || !w.reply.Response {
			t.Fatalf("%v has the reply %v", query, w.reply)
		}
		if _, err := w.reply.Pack(); err != nil {
			t.Fatalf("the reply to %v cannot be sent: %v\n%v", query, err, w.reply)
		}
		for _, rr := range w.reply.Answer {
			if a, ok := rr.(*dns.A); ok {
				if addr, ok := netip.AddrFromSlice(a.A.To4()); !ok || !lab.Contains(addr) {
					t.Fatalf("%v has the answer %v", query, a)
				}
			}
		}
		if len(d.counts) > maxCountedNames+5000 {
			t.Fatalf("%d names are counted", len(d.counts))
		}
	})
}

// FuzzARPReply: only a reply (RFC 826) of the address that was asked for counts.
func FuzzARPReply(f *testing.F) {
	target := netip.MustParseAddr("198.18.20.11")
	reply := append([]byte{0, 1, 8, 0, 6, 4, 0, 2, 2, 0x4b, 0x4c, 1, 2, 3}, target.AsSlice()...)
	reply = append(reply, 2, 0x4b, 0x4c, 9, 9, 9, 0, 0, 0, 0)
	if mac, ok := arpReply(reply, target); !ok || mac.String() != "02:4b:4c:01:02:03" {
		f.Fatalf("a good reply is %v, %v", mac, ok)
	}
	f.Add(reply)
	f.Add(reply[:27])
	f.Fuzz(func(t *testing.T, packet []byte) {
		mac, ok := arpReply(packet, target)
		if ok && (len(packet) < arpLen || len(mac) != 6 || !bytes.Contains(packet, mac) || !bytes.Contains(packet, target.AsSlice())) {
			t.Fatalf("% x is a reply of %v", packet, mac)
		}
	})
}

// FuzzCanonicalHost: what is taken for a host name is one, and stays as it is.
func FuzzCanonicalHost(f *testing.F) {
	if host, err := canonicalHost("A.Lab.Test."); host != "a.lab.test" || err != nil {
		f.Fatalf("A.Lab.Test. is %q, %v", host, err)
	}
	for _, s := range []string{"A.Lab.Test.", "198.18.20.1", "", "..", strings.Repeat("a", 64) + ".test", "fe80::1%eth0", "ä.test", "İ.test", "\u212a.test"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, err := canonicalHost(s)
		if err != nil {
			return
		}
		again, err := canonicalHost(host)
		if err != nil || again != host || len(strings.TrimSuffix(s, ".")) != len(host) || !strings.EqualFold(strings.TrimSuffix(s, "."), host) ||
			host != strings.ToLower(host) {
			t.Fatalf("%q is %q, and that %q, %v", s, host, again, err)
		}
		if _, ok := dns.IsDomainName(host); !ok {
			t.Fatalf("%q is no domain name", host)
		}
	})
}
