package fleet

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// TPMSeed is the seed of the TPM that a node has now: the plan's, or after replacements another one that follows from it, or that of the node which
// the TPM came from. nil: a random one.
func TPMSeed(dir state.Dir, n plan.Node) ([]byte, error) {
	moved, err := os.ReadFile(seedFile(dir, n))
	if err == nil {
		if len(moved) == 0 {
			return nil, nil
		}
		return moved, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("seed of the TPM of %s: %w", n.Name, err)
	}
	if n.TPM.Seed == "" {
		return nil, nil
	}
	seed, err := hex.DecodeString(n.TPM.Seed)
	if err != nil {
		return nil, fmt.Errorf("seed of the TPM of %s: %w", n.Name, err)
	}
	count, err := replacements(dir, n)
	if err != nil || count == 0 {
		return seed, err
	}
	return hkdf.Key(sha256.New, seed, nil, fmt.Sprintf("keylab TPM replacement %d", count), len(seed))
}

// CountReplacement notes that a node's TPM has been replaced, so that TPMSeed gives the new one's seed.
func CountReplacement(dir state.Dir, n plan.Node) error {
	count, err := replacements(dir, n)
	if err != nil {
		return err
	}
	// The new one comes with a certificate, if the plan wants one.
	if err := noteEKAbsent(dir, n, false); err != nil {
		return err
	}
	if err := os.Remove(seedFile(dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the seed of the TPM that %s had: %w", n.Name, err)
	}
	return writeCount(replacementsFile(dir, n), count+1)
}

// SwapTPMs exchanges the TPMs of two nodes that are off, in the lab's folder.
func SwapTPMs(dir state.Dir, a, b plan.Node) error {
	return SwapSeeds(dir, a, b, func() error { return swapFolders(dir, a, b) })
}

// SwapSeeds notes that two nodes have exchanged their TPMs, which exchange does.
func SwapSeeds(dir state.Dir, a, b plan.Node, exchange func() error) error {
	seedA, errA := TPMSeed(dir, a)
	seedB, errB := TPMSeed(dir, b)
	if err := errors.Join(errA, errB); err != nil {
		return err
	}
	if err := exchange(); err != nil {
		return err
	}
	return errors.Join(keepSeed(dir, a, seedB), keepSeed(dir, b, seedA))
}

func swapFolders(dir state.Dir, a, b plan.Node) error {
	aside := dir.TPM(a.Name) + ".moving"
	for _, move := range [][2]string{{dir.TPM(a.Name), aside}, {dir.TPM(b.Name), dir.TPM(a.Name)}, {aside, dir.TPM(b.Name)}} {
		if err := os.Rename(move[0], move[1]); err != nil {
			return fmt.Errorf("exchange the TPMs of %s and %s: %w", a.Name, b.Name, err)
		}
	}
	return nil
}

// CloneTPM puts a copy of one node's TPM in the place of another's. Both are off.
func CloneTPM(dir state.Dir, from, to plan.Node) error {
	return CloneSeed(dir, from, to, func() error {
		if err := os.RemoveAll(dir.TPM(to.Name)); err != nil {
			return fmt.Errorf("take the TPM of %s out: %w", to.Name, err)
		}
		if err := CopyPrivate(dir.TPM(from.Name), dir.TPM(to.Name)); err != nil {
			return fmt.Errorf("copy the TPM of %s into %s: %w", from.Name, to.Name, err)
		}
		return nil
	})
}

// CloneSeed notes that one node has a copy of another's TPM, which copy makes.
func CloneSeed(dir state.Dir, from, to plan.Node, copy func() error) error {
	seed, err := TPMSeed(dir, from)
	if err != nil {
		return err
	}
	if err := copy(); err != nil {
		return err
	}
	return keepSeed(dir, to, seed)
}

// CopyPrivate copies the files of a folder into another one, with all folders below it, for the owner alone. A folder that is there must be empty.
func CopyPrivate(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil { // before anything is in it
		return err
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	return filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
}

// keepSeed notes the seed of a TPM that another node's plan stands for; an empty one is random.
func keepSeed(dir state.Dir, n plan.Node, seed []byte) error {
	return atomicfile.Write(seedFile(dir, n), seed, 0o600)
}

func seedFile(dir state.Dir, n plan.Node) string { return dir.TPM(n.Name) + ".seed" }

// The count is beside the TPM's folder, which goes with the TPM.
func replacementsFile(dir state.Dir, n plan.Node) string { return dir.TPM(n.Name) + ".replaced" }

func replacements(dir state.Dir, n plan.Node) (int, error) {
	return readCount(replacementsFile(dir, n), "how often the TPM of "+n.Name+" was replaced")
}
