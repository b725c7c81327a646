package fleet

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// TPMSeed is the seed of the TPM that a node has now: the plan's, or after replacements another one that follows from it. nil: a random one.
func TPMSeed(dir state.Dir, n plan.Node) ([]byte, error) {
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
	return atomicfile.Write(replacementsFile(dir, n), []byte(strconv.Itoa(count+1)+"\n"), 0o600)
}

// The count is beside the TPM's folder, which goes with the TPM.
func replacementsFile(dir state.Dir, n plan.Node) string { return dir.TPM(n.Name) + ".replaced" }

func replacements(dir state.Dir, n plan.Node) (int, error) {
	text, err := os.ReadFile(replacementsFile(dir, n))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	count := 0
	if err == nil {
		count, err = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if err != nil {
		return 0, fmt.Errorf("how often the TPM of %s was replaced: %w", n.Name, err)
	}
	return count, nil
}
