package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"keylab.dev/keylab/lab/authority"
)

// exported are the files of a lab's folder that an export copies. Keys, TPM states and databases are none of them, and
// a file that holds a private key all the same is left out.
var exported = []string{
	"lab.yaml", "plan.json", "identity", "logs/*.log", "tpm_cert_store/*", "pki/*.crt",
	"keylime/*.conf", "keylime/*/*.conf", "agent/*/*.crt", "agent/*/*cert*.pem", "measured/*/*", "policies/*",
	"ekcas/record.json", "ekcas/cross/*.pem", "ekcas/leaked/*.pem",
}

// Export copies the lab's logs, specification, plan, configuration and certificates, but no private key, into a folder,
// and returns how many files it wrote.
func (l *Lab) Export(ctx context.Context, dir string) (int, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, fmt.Errorf("make the folder: %w", err)
	}
	count := 0
	for _, pattern := range exported {
		files, err := filepath.Glob(filepath.Join(l.dir.Path, pattern))
		if err != nil {
			return count, err
		}
		for _, file := range files {
			if err := ctx.Err(); err != nil {
				return count, err
			}
			copied, err := l.exportFile(file, dir)
			if err != nil {
				return count, err
			}
			if copied {
				count++
			}
		}
	}
	cas, err := l.EKCAs()
	if err != nil {
		return count, err
	}
	list, err := cas.List()
	if errors.Is(err, fs.ErrNotExist) {
		return count, nil // the lab failed before it had one
	}
	if err != nil {
		return count, err
	}
	for _, ca := range list {
		to := filepath.Join(dir, "ekca")
		if ca.Name != authority.First {
			to = filepath.Join(dir, "ekcas", ca.Name)
		}
		if err := ca.ExportPublic(to); err != nil {
			return count, err
		}
		err := filepath.WalkDir(to, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				count++
			}
			return err
		})
		if err != nil {
			return count, err
		}
	}
	return count, nil
}

func (l *Lab) exportFile(file, dir string) (bool, error) {
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() {
		return false, err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	if bytes.Contains(data, []byte("PRIVATE KEY-----")) {
		return false, nil
	}
	name, err := filepath.Rel(l.dir.Path, file)
	if err != nil {
		return false, err
	}
	to := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return false, err
	}
	return true, os.WriteFile(to, data, 0o644)
}
