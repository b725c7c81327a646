package tpmsim

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"

	"keylab.dev/keylab/internal/atomicfile"
)

const (
	// childArgument, as first argument, makes [MaybeRunChild] run a TPM in this process.
	childArgument = "__tpmsim-simulator"
	// simulatorNVFile holds the NV memory of the reference implementation.
	simulatorNVFile = "nv.bin"
	// simulatorSeedFile holds the 8-byte seed of a TPM that was never powered on.
	simulatorSeedFile = "seed.bin"
)

// childHook tells that MaybeRunChild was called, without which a child would run the caller's program once more.
var childHook atomic.Bool

// MaybeRunChild must be the first thing that main, and TestMain, call in a program that uses [Simulator]. It returns at
// once, except in a child process that is to be a TPM: there it runs the TPM and ends the process.
func MaybeRunChild() {
	childHook.Store(true)
	if len(os.Args) > 1 && os.Args[1] == childArgument {
		os.Exit(ChildMain(os.Args[2:]))
	}
}

// ChildMain runs a simulator TPM in this process and returns the exit status when the command stream ends. args are those
// after the hidden first one.
func ChildMain(args []string) int {
	if len(args) != 1 {
		fmt.Fprintf(os.Stderr, "tpmsim: %s takes one argument, the state directory; it got %q\n", childArgument, args)
		return 2
	}
	if err := runSimulator(args[0]); err != nil {
		fmt.Fprintf(os.Stderr, "tpmsim: simulator of %s: %v\n", args[0], err)
		return 1
	}
	return 0
}

// Simulator returns the backend that runs Microsoft's TPM 2.0 reference implementation, as go-tpm-tools brings it, in a
// child process that is this program itself. It needs a cgo build and OpenSSL's libcrypto, and [MaybeRunChild] in main.
//
// The child writes the whole NV memory to disk after every command that has changed it, before it answers: nothing that a
// real TPM keeps is lost by a restart of the child or by a kill.
//
// Options.Seed gives the primary seeds by way of 64 bits (all that go-tpm-tools takes); the hierarchies' proofs stay
// random, so that saved contexts and tickets of one TPM are worth nothing on another of the same seed.
func Simulator() Backend { return simulator{} }

type simulator struct{}

func (simulator) Name() string { return "simulator" }

func (simulator) Available() error {
	if err := simulatorBuilt(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if !childHook.Load() {
		return fmt.Errorf("%w: the simulator runs in a child process of this program, whose main must call tpmsim.MaybeRunChild first", ErrUnavailable)
	}
	return nil
}

func (simulator) create(_ context.Context, dir string, seed []byte, _ io.Writer) error {
	if seed == nil {
		return nil // the child manufactures when it finds no NV memory
	}
	short, err := hkdf.Key(sha256.New, seed, nil, "keylab tpmsim simulator", 8)
	if err != nil {
		return fmt.Errorf("tpmsim: deriving the simulator's seed: %w", err)
	}
	return atomicfile.Write(filepath.Join(dir, simulatorSeedFile), short, 0o600)
}

func (simulator) start(dir string, log io.Writer) (*device, error) {
	// The running file itself, also if it has been replaced or removed on disk.
	cmd := exec.Command("/proc/self/exe", childArgument, dir)
	cmd.Args[0] = os.Args[0]
	return startDevice(cmd, log)
}
