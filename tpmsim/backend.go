package tpmsim

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Backend is a way to run a TPM: [Swtpm] or [Simulator].
type Backend interface {
	// Name is "swtpm" or "simulator".
	Name() string
	// Available returns nil, or an error that says what is missing and how to get it.
	Available() error

	// create makes the state of a new TPM in dir, which exists and is empty. A nil seed means a random one.
	create(ctx context.Context, dir string, seed []byte, log io.Writer) error
	// start powers the TPM whose state is in dir; it is not started in the sense of TPM2_Startup.
	start(dir string, log io.Writer) (*device, error)
}

// ErrUnavailable is wrapped by the errors of [Backend.Available] and [Select].
var ErrUnavailable = errors.New("TPM backend not available")

// Select returns a backend by name: "swtpm", "simulator", or "auto" (also ""), which is swtpm where it is installed and else
// the simulator where it is built in. The error wraps [ErrUnavailable] when the backend is known but cannot be used.
func Select(name string) (Backend, error) {
	switch name {
	case "auto", "":
		first := Swtpm().Available()
		if first == nil {
			return Swtpm(), nil
		}
		second := Simulator().Available()
		if second == nil {
			return Simulator(), nil
		}
		return nil, fmt.Errorf("tpmsim: no backend can be used: %w; %w", first, second)
	case "swtpm":
		return usable(Swtpm())
	case "simulator":
		return usable(Simulator())
	}
	return nil, fmt.Errorf("tpmsim: unknown backend %q; use auto, swtpm or simulator", name)
}

func usable(b Backend) (Backend, error) {
	if err := b.Available(); err != nil {
		return nil, err
	}
	return b, nil
}
