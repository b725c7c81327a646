package keylime

import (
	"fmt"
	"io"
	"os"

	"keylab.dev/keylab/internal/atomicfile"
)

// copyFile copies a small file into place atomically.
func copyFile(from, to string, mode os.FileMode) error {
	f, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("copy to %s: %w", to, err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("copy %s to %s: %w", from, to, err)
	}
	return atomicfile.Write(to, data, mode)
}
