package kind

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"keylab.dev/keylab/internal/atomicfile"
)

// volumesFile says which node has the TPM of which other one's volume, after exchanges. It lasts over `down`, as the volumes do.
func (l *Lab) volumesFile() string {
	return filepath.Join(filepath.Dir(l.dir.TPM("x")), "volumes.json")
}

// tpmVolume is the name of the volume of the TPM that a node has now.
func (l *Lab) tpmVolume(node string) (string, error) {
	moved, err := l.movedVolumes()
	if err != nil || moved[node] == "" {
		return tpmPart(node), err
	}
	return moved[node], nil
}

func (l *Lab) movedVolumes() (map[string]string, error) {
	moved := map[string]string{}
	data, err := os.ReadFile(l.volumesFile())
	if errors.Is(err, fs.ErrNotExist) {
		return moved, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &moved)
	}
	if err != nil {
		return nil, fmt.Errorf("read which node has which TPM: %w", err)
	}
	return moved, nil
}

func (l *Lab) swapVolumes(a, b string) error {
	moved, err := l.movedVolumes()
	if err != nil {
		return err
	}
	ofA, errA := l.tpmVolume(a)
	ofB, errB := l.tpmVolume(b)
	if err := errors.Join(errA, errB); err != nil {
		return err
	}
	moved[a], moved[b] = ofB, ofA
	data, err := json.MarshalIndent(moved, "", "  ")
	if err != nil {
		return fmt.Errorf("encode which node has which TPM: %w", err)
	}
	return atomicfile.Write(l.volumesFile(), append(data, '\n'), 0o600)
}
