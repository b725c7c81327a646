//go:build cgo

package tpmsim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/tpmsim/internal/reftpm"
)

func simulatorBuilt() error { return reftpm.Check() }

// runSimulator is the child: it answers commands on descriptor 3 until that ends.
func runSimulator(dir string) error {
	stream := os.NewFile(3, "tpm")
	conn, err := net.FileConn(stream)
	if err != nil {
		return fmt.Errorf("descriptor 3 is not the command stream that tpmsim gives its children: %w", err)
	}
	stream.Close()
	defer conn.Close()
	path := filepath.Join(dir, simulatorNVFile)
	tpm, kept, err := powerOnSimulator(dir, path)
	if err != nil {
		return err
	}
	for {
		command, err := readMessage(conn)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a command: %w", err)
		}
		response, err := tpm.Run(command)
		if err != nil {
			return err
		}
		if nv := tpm.NV(); !bytes.Equal(nv, kept) {
			if err := atomicfile.Write(path, nv, 0o600); err != nil {
				return err
			}
			kept = nv
		}
		if _, err := conn.Write(response); err != nil {
			return fmt.Errorf("writing a response: %w", err)
		}
	}
}

// powerOnSimulator brings back the TPM of dir, or makes it; it returns the NV memory as it is on disk then.
func powerOnSimulator(dir, path string) (*reftpm.TPM, []byte, error) {
	nv, err := os.ReadFile(path)
	if err == nil {
		tpm, err := reftpm.Resume(nv)
		return tpm, nv, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("reading the NV memory: %w", err)
	}
	var seed *int64
	switch data, err := os.ReadFile(filepath.Join(dir, simulatorSeedFile)); {
	case err == nil && len(data) == 8:
		value := int64(binary.BigEndian.Uint64(data))
		seed = &value
	case err == nil:
		return nil, nil, fmt.Errorf("%s has %d bytes instead of 8", simulatorSeedFile, len(data))
	case !errors.Is(err, fs.ErrNotExist):
		return nil, nil, fmt.Errorf("reading the seed: %w", err)
	}
	tpm, err := reftpm.Manufacture(seed)
	if err != nil {
		return nil, nil, err
	}
	nv = tpm.NV()
	if err := atomicfile.Write(path, nv, 0o600); err != nil {
		return nil, nil, err
	}
	if err := os.Remove(filepath.Join(dir, simulatorSeedFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("removing the seed that was used: %w", err)
	}
	return tpm, nv, nil
}
