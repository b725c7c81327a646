package tpmsim

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"keylab.dev/keylab/internal/atomicfile"
)

// swtpmStateFile is where swtpm's directory storage keeps the permanent state of a TPM 2.0.
const swtpmStateFile = "tpm2-00.permall"

// Swtpm returns the backend that runs the program swtpm (github.com/stefanberger/swtpm) as found in PATH.
func Swtpm() Backend { return swtpm{} }

type swtpm struct{}

func (swtpm) Name() string { return "swtpm" }

func (swtpm) Available() error {
	if _, err := exec.LookPath("swtpm"); err != nil {
		return fmt.Errorf("%w: the program swtpm is not in PATH; install the package swtpm (apt install swtpm, dnf install swtpm): %w", ErrUnavailable, err)
	}
	return nil
}

// start passes the command stream as a connected descriptor with --fd: swtpm then serves that one client and ends when it
// goes away (with --server fd= it would take the descriptor for a listening one, and spin). Without a control channel swtpm
// has to power itself on (not-need-init).
func (swtpm) start(dir string, log io.Writer) (*device, error) {
	return startDevice(exec.Command("swtpm", "socket", "--tpm2",
		"--tpmstate", "dir="+dir+",mode=0600",
		"--fd", "3",
		"--flags", "not-need-init"), log)
}

// create lets swtpm manufacture a TPM, and then puts the wanted seeds in place of its random ones. Nothing has been derived
// from those yet.
func (s swtpm) create(ctx context.Context, dir string, seed []byte, log io.Writer) error {
	if seed == nil {
		return nil // swtpm manufactures at its first start
	}
	d, err := s.start(dir, log)
	if err != nil {
		return err
	}
	// Any response will do, an error too: it comes after the state was written.
	_, err = d.first(ctx, newCommand(ccGetRandom, []byte{0, 8}))
	if stopErr := d.stop(); err == nil {
		err = stopErr
	}
	if err != nil {
		return fmt.Errorf("tpmsim: letting swtpm make its first state in %s: %w", dir, err)
	}
	path := filepath.Join(dir, swtpmStateFile)
	state, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("tpmsim: reading the state that swtpm made: %w", err)
	}
	secrets, err := findSecrets(state)
	if err != nil {
		return fmt.Errorf("tpmsim: %s: %w; a TPM with a chosen seed cannot be made with this version of swtpm/libtpms: "+
			"leave Options.Seed nil or use the simulator backend", path, err)
	}
	if err := secrets.derive(seed); err != nil {
		return err
	}
	return atomicfile.Write(path, state, 0o600)
}
