//go:build !cgo

package tpmsim

import "errors"

// errNoCgo tells how to get the simulator.
var errNoCgo = errors.New("this program was built without the simulator; build it with CGO_ENABLED=1, a C compiler and " +
	"OpenSSL's headers (apt install gcc libssl-dev)")

func simulatorBuilt() error { return errNoCgo }

func runSimulator(string) error { return errNoCgo }
