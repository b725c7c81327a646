package netns

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"keylab.dev/keylab/keylime"
	"keylab.dev/keylab/lab/fleet"
	"keylab.dev/keylab/lab/plan"
)

// Faketime is the library that shows a program another time (libfaketime), or an error that says how to install it.
func Faketime() (string, error) {
	for _, place := range fleet.FaketimePlaces {
		if found, err := filepath.Glob(place); err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", errors.New("libfaketime is not installed: sudo apt-get install libfaketime")
}

// skewClock starts a service again with a clock that is wrong by the fault's option; agents and TPMs of a lab take their time from the kernel.
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

// skewed is the command as it shows the program the wrong time, by so much.
func skewed(c keylime.Command, by time.Duration) (keylime.Command, error) {
	library, err := Faketime()
	if err != nil {
		return c, err
	}
	c.Env = append(slices.Clone(c.Env), fleet.SkewEnv(library, by)...)
	return c, nil
}

// awaitHandshake waits until a service speaks TLS, whether or not it takes a client's certificate.
func (s *supervisor) awaitHandshake(host string) func(context.Context) error {
	to := s.plan.Keylime.Verifier
	if host == plan.Registrar {
		to = s.plan.Keylime.RegistrarTLS
	}
	return func(ctx context.Context) error {
		return fleet.Await(ctx, "the "+host+" to speak TLS", func(ctx context.Context) (string, error) {
			return "", fleet.SpeaksTLS(ctx, s.dialFrom(plan.Tenant), to)
		})
	}
}
