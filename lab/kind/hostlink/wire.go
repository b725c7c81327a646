package hostlink

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"keylab.dev/keylab/netlab"
)

// request is one operation.
type request struct {
	Op      string         `json:"op"`
	Network string         `json:"network,omitempty"` // of dial: tcp, udp or unix; of probe: tcp, udp or icmp
	Address string         `json:"address,omitempty"` // of dial and resolve
	To      netip.AddrPort `json:"to,omitzero"`
	Via     netip.Addr     `json:"via,omitzero"`
	Prefix  netip.Prefix   `json:"prefix,omitzero"`
	Payload []byte         `json:"payload,omitempty"`
	Timeout time.Duration  `json:"timeout,omitempty"`
	Link    string         `json:"link,omitempty"`
	Name    string         `json:"name,omitempty"`
	Argv    []string       `json:"argv,omitempty"`
}

// The operations.
const (
	opDial         = "dial"
	opListen       = "listen"
	opAccept       = "accept" // of the listener that Name names
	opListenPacket = "listen-packet"
	opProbe        = "probe"
	opProbeVia     = "probe-via"
	opARP          = "arp"
	opResolve      = "resolve"
	opInspect      = "inspect"
	opArrivals     = "arrivals"
	opRun          = "run"
)

// answer is what came of an operation.
type answer struct {
	Error     string            `json:"error,omitempty"`
	Errno     int               `json:"errno,omitempty"` // what kind of error it is, for errors.Is
	Timeout   bool              `json:"timeout,omitempty"`
	Outcome   netlab.Outcome    `json:"outcome,omitempty"`
	Elapsed   time.Duration     `json:"elapsed,omitempty"`
	MAC       []byte            `json:"mac,omitempty"`
	Addresses []netip.Addr      `json:"addresses,omitempty"`
	Host      *netlab.HostState `json:"host,omitempty"`
	Count     uint64            `json:"count,omitempty"`
	Address   netip.AddrPort    `json:"address,omitzero"` // where it listens, or who connected
	Output    []byte            `json:"output,omitempty"`
}

// maxMessage bounds a message, in bytes.
const maxMessage = 16 << 20

func send(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode a message: %w", err)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...))
	return err
}

func receive(r io.Reader, v any) error {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxMessage {
		return fmt.Errorf("a message of %d bytes is too long", n)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// fail puts an error into an answer, with what errors.Is can find of it.
func (a *answer) fail(err error) {
	if err == nil {
		return
	}
	a.Error = err.Error()
	var errno syscall.Errno
	if errors.As(err, &errno) {
		a.Errno = int(errno)
	}
	var timeout net.Error
	a.Timeout = errors.As(err, &timeout) && timeout.Timeout()
}

// err is the answer's error.
func (a answer) err() error {
	if a.Error == "" {
		return nil
	}
	return &remoteError{a.Error, syscall.Errno(a.Errno), a.Timeout}
}

// remoteError is an error of the other side: its words, and its kind.
type remoteError struct {
	text    string
	errno   syscall.Errno
	timeout bool
}

func (e *remoteError) Error() string { return e.text }

// Unwrap lets errors.Is find ECONNREFUSED and its like.
func (e *remoteError) Unwrap() error {
	if e.errno == 0 {
		return nil
	}
	return e.errno
}

// Timeout and Temporary make it a net.Error.
func (e *remoteError) Timeout() bool   { return e.timeout }
func (e *remoteError) Temporary() bool { return e.timeout }

// settings of the sessions: the stream under them is reliable, and says itself when it ends.
func settings() *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.LogOutput = io.Discard
	c.StreamOpenTimeout = 0
	c.StreamCloseTimeout = time.Minute
	return c
}
