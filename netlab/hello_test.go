package netlab

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	"keylab.dev/keylab/netlab/ingresstest"
)

func readName(r io.Reader, maxLen int) (string, []byte, error) {
	h := helloReader{r: r, max: maxLen}
	name, err := h.serverName()
	return name, h.raw, err
}

func TestHelloName(t *testing.T) {
	whole := helloFor(t, "node.agents.lab.test")
	after := append(bytes.Clone(whole), "early data"...)
	for _, c := range []struct {
		what  string
		r     io.Reader
		bytes []byte
	}{
		{"at once", bytes.NewReader(whole), whole},
		{"byte by byte", iotest.OneByteReader(bytes.NewReader(whole)), whole},
		{"data together with the end", iotest.DataErrReader(bytes.NewReader(whole)), whole},
		{"with what follows", bytes.NewReader(after), after},
		{"in records of one byte", bytes.NewReader(ingresstest.Split(whole, 1)), ingresstest.Split(whole, 1)},
	} {
		name, raw, err := readName(c.r, 1<<16)
		if err != nil || name != "node.agents.lab.test" || !bytes.Equal(raw, c.bytes) {
			t.Errorf("%s: name %q, error %v, %d of %d bytes kept", c.what, name, err, len(raw), len(c.bytes))
		}
	}
}

// replaced swaps bytes of a hello.
func replaced(t *testing.T, hello []byte, old, new string) []byte {
	t.Helper()
	if !bytes.Contains(hello, []byte(old)) {
		t.Fatalf("the hello does not contain %q", old)
	}
	return bytes.Replace(hello, []byte(old), []byte(new), 1)
}

func TestHelloFaults(t *testing.T) {
	hello := helloFor(t, "a.test")
	// The extension: type 0, length 11, list length 9, type host_name, length 6.
	const ext = "\x00\x00\x00\x0b\x00\x09\x00\x00\x06a.test"
	for _, c := range []struct {
		what string
		data []byte
		want error
	}{
		{"nothing", nil, io.EOF},
		{"half of it", hello[:len(hello)/2], io.ErrUnexpectedEOF},
		{"an alert", []byte{21, 3, 3, 0, 2, 2, 0}, errNotTLS},
		{"SSL 2", []byte{0x80, 0x2e, 1, 3, 1}, errNotTLS},
		{"version 2 record", append([]byte{22, 2}, hello[2:]...), errNotTLS},
		{"empty record", []byte{22, 3, 1, 0, 0}, errNotTLS},
		{"record over 2^14 bytes", []byte{22, 3, 1, 0x40, 1}, errNotTLS},
		{"a ServerHello", append(bytes.Clone(hello[:5]), append([]byte{2}, hello[6:]...)...), errNotTLS},
		{"no name", helloFor(t, ""), errNoSNI},
		{"another type of name only", replaced(t, hello, ext, "\x00\x00\x00\x0b\x00\x09\x01\x00\x06a.test"), errNoSNI},
		{"empty list", replaced(t, hello, ext, "\x00\x00\x00\x0b\x00\x00\x00\x00\x06a.test"), errNotTLS},
		{"name longer than its list", replaced(t, hello, ext, "\x00\x00\x00\x0b\x00\x09\x00\x00\x07a.test"), errNotTLS},
		{"two names", replaced(t, hello, ext, "\x00\x00\x00\x0b\x00\x09\x00\x00\x01a\x00\x00\x02bc"), errNotTLS},
		{"extension longer than the hello", replaced(t, hello, ext, "\x00\x00\xff\xff\x00\x09\x00\x00\x06a.test"), errNotTLS},
	} {
		if name, _, err := readName(bytes.NewReader(c.data), 1<<16); !errors.Is(err, c.want) {
			t.Errorf("%s: name %q, error %v; want %v", c.what, name, err, c.want)
		}
	}
	if _, _, err := readName(bytes.NewReader(hello), len(hello)-1); !errors.Is(err, errTooLarge) {
		t.Errorf("a hello over the limit: %v", err)
	}
	if _, _, err := readName(bytes.NewReader(hello), len(hello)); err != nil {
		t.Errorf("a hello just at the limit: %v", err)
	}
}

// errSeen ends crypto/tls's handshake once it has read the ClientHello.
var errSeen = errors.New("seen")

// nameByStandardLibrary is what crypto/tls makes of the same bytes.
func nameByStandardLibrary(data []byte) (name string, ok bool) {
	c := &readOnlyConn{r: bytes.NewReader(data)}
	err := tls.Server(c, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		name = h.ServerName
		return nil, errSeen
	}}).Handshake()
	return name, errors.Is(err, errSeen)
}

type readOnlyConn struct {
	net.Conn
	r io.Reader
}

func (c *readOnlyConn) Read(b []byte) (int, error)  { return c.r.Read(b) }
func (c *readOnlyConn) Write(b []byte) (int, error) { return len(b), nil }
func (c *readOnlyConn) Close() error                { return nil }

// FuzzHello compares with crypto/tls, however the bytes are cut into records.
func FuzzHello(f *testing.F) {
	for _, name := range []string{"a.test", "", strings.Repeat("a", 32) + "." + strings.Repeat("b", 32) + ".agents.lab.test"} {
		hello := helloFor(f, name)
		f.Add(hello, uint16(0))
		f.Add(hello, uint16(7))
		small, err := ingresstest.ClientHello(name, []string{"h2"}, tls.X25519)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(small, uint16(1))
	}
	f.Fuzz(func(t *testing.T, data []byte, size uint16) {
		if size > 0 && len(data) > 5 {
			data = ingresstest.Split(data, int(size))
		}
		if len(data) > 1<<16 {
			return
		}
		name, raw, err := readName(bytes.NewReader(data), 1<<16)
		if !bytes.HasPrefix(data, raw) {
			t.Fatal("the bytes kept are not those read")
		}
		want, ok := nameByStandardLibrary(data)
		// This is the stricter of the two, but what both understand they must
		// understand alike, or a name could be shown to one and hidden from the other.
		switch {
		case ok && err == nil && name != want:
			t.Errorf("name %q; crypto/tls found %q", name, want)
		case ok && errors.Is(err, errNoSNI) && want != "":
			t.Errorf("no name; crypto/tls found %q", want)
		}
	})
}
