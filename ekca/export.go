package ekca

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"keylab.dev/keylab/internal/atomicfile"
)

// ExportPublic writes all that the CA publishes into dir, which is made if absent, and no private key: chain.pem (issuing CA first, root
// last), each CA certificate (root.pem, intermediate-1.pem, ...), a fresh CRL (crl.der), index.json with the record of every issued
// certificate in the order of issue, and issued/<serial>.pem. Files already there are replaced; others stay.
func (ca *CA) ExportPublic(dir string) error {
	if err := ca.exportPublic(dir); err != nil {
		return fmt.Errorf("export the public part of EK CA %s to %s: %w", ca.dir, dir, err)
	}
	return nil
}

func (ca *CA) exportPublic(dir string) error {
	if abs, err := filepath.Abs(dir); err != nil {
		return err
	} else if abs == ca.dir {
		return errors.New("that is the CA's own folder, with its private keys; choose another")
	}
	if err := os.MkdirAll(filepath.Join(dir, issuedDir), publicDirMode); err != nil {
		return err
	}
	crl, err := ca.CRL()
	if err != nil {
		return err
	}
	records, err := ca.Issued()
	if err != nil {
		return err
	}
	if records == nil {
		records = []Record{} // an empty list, not null
	}
	index, err := json.MarshalIndent(records, "", "  ")
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"chain.pem":  PEM(ca.chain...),
		crlFile:      crl,
		"index.json": append(index, '\n'),
	}
	for i, cert := range ca.chain {
		files[ca.levelOf(i)+".pem"] = PEM(cert)
	}
	for _, r := range records {
		cert, err := os.ReadFile(r.File)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process is just recording it
		} else if err != nil {
			return err
		}
		files[filepath.Join(issuedDir, filepath.Base(r.File))] = cert
	}
	for name, data := range files {
		if err := atomicfile.Write(filepath.Join(dir, name), data, publicFileMode); err != nil {
			return err
		}
	}
	return nil
}
