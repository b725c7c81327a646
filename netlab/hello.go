package netlab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// Why the start of a connection is no ClientHello that can be routed.
var (
	errNotTLS   = errors.New("not a TLS ClientHello")
	errTooLarge = errors.New("ClientHello too large")
	errNoSNI    = errors.New("ClientHello without a server name")
)

// Numbers of RFC 8446: section 5.1 (records), 4 (handshake), 4.2 (extensions).
const (
	recordHandshake      = 22
	recordHeaderLen      = 5
	maxRecordLen         = 1 << 14
	handshakeClientHello = 1
	handshakeHeaderLen   = 4
	extensionServerName  = 0 // RFC 6066, section 3
	serverNameHost       = 0
)

// helloReader reads a ClientHello from the start of a stream and keeps every
// byte that it read, for the backend to see them all.
type helloReader struct {
	r   io.Reader
	max int    // how many bytes it may read in all
	raw []byte // all bytes read
	pos int    // how much of raw was understood
}

// next returns the next n bytes of the stream, reading more as needed.
func (h *helloReader) next(n int) ([]byte, error) {
	for len(h.raw)-h.pos < n {
		if len(h.raw) >= h.max {
			return nil, errTooLarge
		}
		chunk := make([]byte, min(4096, h.max-len(h.raw)))
		got, err := h.r.Read(chunk)
		h.raw = append(h.raw, chunk[:got]...)
		if err != nil && len(h.raw)-h.pos < n {
			if err == io.EOF && len(h.raw) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	b := h.raw[h.pos : h.pos+n]
	h.pos += n
	return b, nil
}

// serverName reads until the ClientHello is whole, however it is cut into
// records and segments, and returns the host name in it, as sent.
func (h *helloReader) serverName() (string, error) {
	var hello []byte // the handshake message, records joined
	want := handshakeHeaderLen
	for len(hello) < want {
		// One byte first: plain text must not have to wait for five.
		kind, err := h.next(1)
		if err != nil {
			return "", err
		}
		if kind[0] != recordHandshake {
			return "", fmt.Errorf("%w: it starts with record type %d", errNotTLS, kind[0])
		}
		header, err := h.next(recordHeaderLen - 1)
		if err != nil {
			return "", err
		}
		length := int(binary.BigEndian.Uint16(header[2:]))
		if header[0] != 3 || length == 0 || length > maxRecordLen {
			return "", fmt.Errorf("%w: record version %d.%d, length %d", errNotTLS, header[0], header[1], length)
		}
		fragment, err := h.next(length)
		if err != nil {
			return "", err
		}
		hello = append(hello, fragment...)
		if len(hello) >= handshakeHeaderLen && want == handshakeHeaderLen {
			if hello[0] != handshakeClientHello {
				return "", fmt.Errorf("%w: handshake message type %d", errNotTLS, hello[0])
			}
			want += int(hello[1])<<16 | int(hello[2])<<8 | int(hello[3])
			if want > h.max {
				return "", errTooLarge
			}
		}
	}
	return parseServerName(hello[handshakeHeaderLen:want])
}

// parseServerName finds the host name in a ClientHello's body (RFC 8446, section 4.1.2).
func parseServerName(body []byte) (string, error) {
	p := vectors{rest: body}
	p.fixed(2 + 32) // legacy_version, random
	if len(p.vector(1)) > 32 {
		p.bad = true // legacy_session_id
	}
	if suites := p.vector(2); len(suites) == 0 || len(suites)%2 != 0 {
		p.bad = true
	}
	if len(p.vector(1)) == 0 {
		p.bad = true // legacy_compression_methods
	}
	if p.bad {
		return "", fmt.Errorf("%w: malformed", errNotTLS)
	}
	if len(p.rest) == 0 {
		return "", errNoSNI // extensions may be absent before TLS 1.3
	}
	extensions := vectors{rest: p.vector(2)}
	if p.bad || len(p.rest) > 0 {
		return "", fmt.Errorf("%w: malformed extensions", errNotTLS)
	}
	name, found := "", false
	for len(extensions.rest) > 0 {
		kind := extensions.number(2)
		content := extensions.vector(2)
		if kind != extensionServerName || extensions.bad {
			if extensions.bad {
				break
			}
			continue
		}
		if found {
			return "", fmt.Errorf("%w: two server_name extensions", errNotTLS)
		}
		found = true
		var err error
		if name, err = parseServerNameList(content); err != nil {
			return "", err
		}
	}
	if extensions.bad {
		return "", fmt.Errorf("%w: malformed extension", errNotTLS)
	}
	if name == "" {
		return "", errNoSNI
	}
	return name, nil
}

// parseServerNameList returns the list's one host name, "" if it has none.
func parseServerNameList(content []byte) (string, error) {
	outer := vectors{rest: content}
	list := vectors{rest: outer.vector(2)}
	if outer.bad || len(outer.rest) > 0 || len(list.rest) == 0 {
		return "", fmt.Errorf("%w: malformed server_name", errNotTLS)
	}
	name := ""
	for len(list.rest) > 0 {
		kind := list.number(1)
		host := list.vector(2)
		if list.bad || len(host) == 0 {
			return "", fmt.Errorf("%w: malformed server_name", errNotTLS)
		}
		if kind != serverNameHost {
			continue
		}
		if name != "" {
			return "", fmt.Errorf("%w: two host names in server_name", errNotTLS)
		}
		name = string(host)
	}
	return name, nil
}

// vectors takes numbers and length-prefixed vectors (RFC 8446, section 3.4)
// off the front of rest. Once bad is set, all results are empty.
type vectors struct {
	rest []byte
	bad  bool
}

func (v *vectors) fixed(n int) []byte {
	if v.bad || len(v.rest) < n {
		v.bad, v.rest = true, nil
		return nil
	}
	b := v.rest[:n]
	v.rest = v.rest[n:]
	return b
}

// number takes a big-endian number of n bytes.
func (v *vectors) number(n int) int {
	x := 0
	for _, b := range v.fixed(n) {
		x = x<<8 | int(b)
	}
	return x
}

// vector takes a vector whose length is a number of n bytes.
func (v *vectors) vector(n int) []byte { return v.fixed(v.number(n)) }

// lowerASCII leaves all but A to Z alone: Unicode has letters, such as the Kelvin
// sign, whose lower case is in ASCII, and which would make one name of two.
func lowerASCII(c rune) rune {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// canonicalHost brings a server name or route to lower case without a final
// dot, and refuses what cannot be a host name. RFC 6066 allows neither IP
// literals nor a final dot in a server name; the dot is forgiven, since
// clients that are given a fully qualified name do send it.
func canonicalHost(s string) (string, error) {
	host := strings.Map(lowerASCII, strings.TrimSuffix(s, "."))
	if _, err := netip.ParseAddr(host); err == nil {
		return "", fmt.Errorf("%q is an IP literal, not a host name", s)
	}
	if len(host) == 0 || len(host) > 253 {
		return "", fmt.Errorf("host name %q: want 1 to 253 characters", s)
	}
	for label := range strings.SplitSeq(host, ".") {
		if len(label) == 0 || len(label) > 63 {
			return "", fmt.Errorf("host name %q: label %q: want 1 to 63 characters (RFC 1035, section 2.3.4)", s, label)
		}
		for _, c := range []byte(label) {
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
				return "", fmt.Errorf("host name %q: character %q", s, c)
			}
		}
	}
	return host, nil
}
