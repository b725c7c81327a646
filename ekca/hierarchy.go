package ekca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"keylab.dev/keylab/internal/atomicfile"
)

// Create makes a CA in dir, which must be absent or empty; missing parent folders are made, with mode 0700. The keys of all levels are
// generated in parallel. The folder appears whole or not at all: of two processes that create the same one, the second gets ErrExists.
func Create(dir string, cfg Config) (*CA, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("create EK CA in %s: %w", dir, err)
	}
	cfg = cfg.withDefaults()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("create EK CA: %w", err)
	}
	// Generating keys only to find the place taken would waste seconds.
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("create EK CA in %s: %w; open it, or choose another folder", dir, ErrExists)
	}
	keys, err := generateKeys(cfg)
	if err != nil {
		return nil, fmt.Errorf("create EK CA in %s: %w", dir, err)
	}
	levels, err := certifyLevels(cfg, keys)
	if err != nil {
		return nil, fmt.Errorf("create EK CA in %s: %w", dir, err)
	}
	if err := writeHierarchy(dir, cfg, keys, levels); err != nil {
		return nil, fmt.Errorf("create EK CA in %s: %w", dir, err)
	}
	ca, err := Open(dir)
	if err != nil {
		return nil, err
	}
	ca.cfg.Now = cfg.Now
	return ca, nil
}

func generateKeys(cfg Config) ([]crypto.Signer, error) {
	keys := make([]crypto.Signer, cfg.Intermediates+1)
	var g errgroup.Group
	for level := range keys {
		g.Go(func() (err error) {
			if keys[level], err = cfg.Algorithm.generate(); err != nil {
				return fmt.Errorf("generate the %s key: %w", levelName(level), err)
			}
			return nil
		})
	}
	return keys, g.Wait()
}

// certifyLevels makes the CA certificates, root first, all with the same dates.
func certifyLevels(cfg Config, keys []crypto.Signer) ([]*x509.Certificate, error) {
	from := cfg.Now().UTC().Truncate(time.Second)
	levels := make([]*x509.Certificate, len(keys))
	for level, key := range keys {
		serial, err := randomSerial()
		if err != nil {
			return nil, err
		}
		below := len(keys) - 1 - level
		template := &x509.Certificate{
			SerialNumber:          serial,
			Subject:               cfg.subject(level),
			NotBefore:             from,
			NotAfter:              from.Add(cfg.Validity),
			BasicConstraintsValid: true,
			IsCA:                  true,
			MaxPathLen:            below,
			MaxPathLenZero:        below == 0,
			KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
		parent, signer := template, key
		if level > 0 {
			parent, signer = levels[level-1], keys[level-1]
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
		if err != nil {
			return nil, fmt.Errorf("sign the %s certificate: %w", levelName(level), err)
		}
		if levels[level], err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("read the %s certificate back: %w", levelName(level), err)
		}
	}
	return levels, nil
}

// writeHierarchy fills a new folder beside dir and renames it to dir, which fails if dir is there and not empty.
func writeHierarchy(dir string, cfg Config, keys []crypto.Signer, levels []*x509.Certificate) (err error) {
	if err := os.MkdirAll(filepath.Dir(dir), secretDirMode); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".*") // mode 0700
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	for _, sub := range []string{keysDir, issuedDir} {
		if err := os.Mkdir(filepath.Join(temp, sub), secretDirMode); err != nil {
			return err
		}
	}
	stored, err := json.MarshalIndent(storedConfig{
		Version: storedVersion, Algorithm: cfg.Algorithm, Intermediates: cfg.Intermediates,
		Organization: cfg.Organization, Country: cfg.Country, RootName: cfg.RootName, IntermediateName: cfg.IntermediateName,
		Validity: cfg.Validity.String(), EKValidity: cfg.EKValidity.String(), CRLURL: cfg.CRLURL, AIAURL: cfg.AIAURL,
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(temp, configFile), append(stored, '\n'), publicFileMode); err != nil {
		return err
	}
	for level, key := range keys {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return fmt.Errorf("encode the %s key: %w", levelName(level), err)
		}
		block := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		if err := atomicfile.Write(filepath.Join(temp, keysDir, levelName(level)+".key"), block, secretFileMode); err != nil {
			return err
		}
		if err := atomicfile.Write(filepath.Join(temp, levelName(level)+".pem"), PEM(levels[level]), publicFileMode); err != nil {
			return err
		}
	}
	if err := os.Rename(temp, dir); err != nil {
		if errors.Is(err, fs.ErrExist) { // ENOTEMPTY too
			return fmt.Errorf("%w: another process has just made one there: %w", ErrExists, err)
		}
		return err
	}
	return nil
}

// randomSerial gives 20 octets, the most that RFC 5280, section 4.1.2.2, allows, always positive and always of full length.
func randomSerial() (*big.Int, error) {
	b := make([]byte, maxSerialOctets)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("random serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b), nil
}

const maxSerialOctets = 20
