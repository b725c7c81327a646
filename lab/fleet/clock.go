package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// FaketimePlaces are where distributions put libfaketime for programs of several threads: Debian and Ubuntu, Fedora, Arch.
var FaketimePlaces = []string{"/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib64/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1"}

// SkewEnv is the environment by which libfaketime shows a program the wrong time, by so much; its monotonic clock, by which it waits, is right. Keylime's
// services are Python, whose time comes from the C library, so that a library loaded before it can change it.
func SkewEnv(library string, by time.Duration) []string {
	return []string{"LD_PRELOAD=" + library, fmt.Sprintf("FAKETIME=%+ds", int(by.Seconds())), "FAKETIME_DONT_FAKE_MONOTONIC=1"}
}

// SpeaksTLS returns nil when a service speaks TLS, whatever it thinks of the client. One whose clock is wrong may refuse every client's certificate, and
// would never be ready otherwise.
func SpeaksTLS(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error), to netip.AddrPort) error {
	raw, err := dial(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	defer raw.Close()
	err = tls.Client(raw, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx) // that it speaks is all that is asked
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" {
		return nil
	}
	return err
}
