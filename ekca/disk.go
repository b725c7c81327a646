package ekca

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"keylab.dev/keylab/internal/atomicfile"
)

const (
	configFile    = "ca.json"
	keysDir       = "keys"
	issuedDir     = "issued"
	lockFile      = "lock"
	crlFile       = "crl.der"
	crlNumberFile = "crl-number"

	secretDirMode  = 0o700
	secretFileMode = 0o600
	publicDirMode  = 0o755
	publicFileMode = 0o644
)

// levelName is the stem of a level's file names; level 0 is the root.
func levelName(level int) string {
	if level == 0 {
		return "root"
	}
	return "intermediate-" + strconv.Itoa(level)
}

// PEM encodes certificates one after the other, in the order given.
func PEM(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// createFile writes a file like atomicfile.Write, but to a path that must be new; otherwise the error wraps fs.ErrExist. A hard link is
// the one call that both creates exclusively and shows the whole content at once, also between processes.
func createFile(path string, data []byte, mode fs.FileMode) error {
	suffix := make([]byte, 8)
	rand.Read(suffix)
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+hex.EncodeToString(suffix))
	if err := atomicfile.Write(temp, data, mode); err != nil {
		return err
	}
	return errors.Join(os.Link(temp, path), os.Remove(temp))
}

// lock keeps other goroutines and processes from changing revocations until the returned function is called.
func (ca *CA) lock() (unlock func(), err error) {
	ca.mu.Lock()
	f, err := os.OpenFile(filepath.Join(ca.dir, lockFile), os.O_RDWR|os.O_CREATE, secretFileMode)
	if err != nil {
		ca.mu.Unlock()
		return nil, fmt.Errorf("open the lock of the EK CA: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		ca.mu.Unlock()
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return func() {
		f.Close() // closing gives the lock up
		ca.mu.Unlock()
	}, nil
}

// readCertificate reads a file that holds exactly one certificate in PEM.
func readCertificate(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("%s: no PEM certificate", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cert, nil
}
