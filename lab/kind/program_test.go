package kind

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// Every node unpacks the image of keylab's program, which never leaves this machine.
func TestProgramImageIsNotCompressed(t *testing.T) {
	program := filepath.Join(t.TempDir(), "0123456789abcdef", "keylab")
	if err := os.MkdirAll(filepath.Dir(program), 0o700); err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("keylab"), 1000)
	if err := os.WriteFile(program, text, 0o700); err != nil {
		t.Fatal(err)
	}
	image, archive, err := programImage("", program)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	if image != "keylab.test/keylab:0123456789abcdef" || !bytes.Contains(packed, text) {
		t.Errorf("image %s: its archive of %d bytes does not have the program as it is", image, len(packed))
	}
}
