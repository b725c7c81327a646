package netns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
)

// faketimePlaces are where distributions put libfaketime for programs of several threads: Debian and Ubuntu, Fedora, Arch.
var faketimePlaces = []string{"/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib64/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1"}

// Faketime is the library that shows a program another time (libfaketime), or an error that says how to install it.
func Faketime() (string, error) {
	for _, place := range faketimePlaces {
		if found, err := filepath.Glob(place); err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", errors.New("libfaketime is not installed: sudo apt-get install libfaketime")
}

// skewClock starts a service again with a clock that is wrong by the fault's option. Keylime's services are Python, whose time comes from the C library, so
// that a library loaded before it can change it; agents and TPMs of a lab take theirs from the kernel.
func (s *supervisor) skewClock(ctx context.Context, f fault) error {
	if _, err := Faketime(); err != nil {
		return err
	}
	return s.restartAt(ctx, f, f.Duration("by"))
}

func (s *supervisor) mendClock(ctx context.Context, f fault) error {
	if err := s.restartAt(ctx, f, 0); err != nil {
		return err
	}
	return s.askAgain(ctx, f, s.nodes)
}

func (s *supervisor) restartAt(ctx context.Context, f fault, skew time.Duration) error {
	s.mu.Lock()
	s.skew[f.Component] = skew
	s.mu.Unlock()
	return s.serviceRestart(ctx, f)
}

// skewed is the command as it shows the program the wrong time, by so much; its monotonic clock, by which it waits, is right.
func skewed(c keylime.Command, by time.Duration) (keylime.Command, error) {
	library, err := Faketime()
	if err != nil {
		return c, err
	}
	c.Env = append(append([]string(nil), c.Env...), "LD_PRELOAD="+library, fmt.Sprintf("FAKETIME=%+ds", int(by.Seconds())), "FAKETIME_DONT_FAKE_MONOTONIC=1")
	return c, nil
}

// awaitHandshake waits until a service speaks TLS. One whose clock is wrong may refuse every client's certificate, and would never be ready otherwise.
func (s *supervisor) awaitHandshake(host string) func(context.Context) error {
	to := s.plan.Keylime.Verifier
	if host == plan.Registrar {
		to = s.plan.Keylime.RegistrarTLS
	}
	return func(ctx context.Context) error {
		return fleet.Await(ctx, "the "+host+" to speak TLS", func(ctx context.Context) (string, error) {
			raw, err := s.dialFrom(plan.Tenant)(ctx, "tcp", to.String())
			if err != nil {
				return "", err
			}
			defer raw.Close()
			err = tls.Client(raw, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(ctx) // that it speaks is all that is asked
			var alert *net.OpError
			if errors.As(err, &alert) && alert.Op == "remote error" {
				return "", nil
			}
			return "", err
		})
	}
}
