package tpmsim

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"keylab.dev/keylab/internal/atomicfile"
)

// The directory of a TPM:
//
//	lock        held (flock) while the TPM is open
//	state/      what the backend keeps, and meta.json
//	state.new/  a state being made or brought in, worthless until it is renamed
//	state.old/  the state being replaced; valid if state/ is missing
const (
	lockName  = "lock"
	stateName = "state"
	newName   = "state.new"
	oldName   = "state.old"
	metaName  = "meta.json"

	minSeed = 16
)

// meta says what a state directory holds.
type meta struct {
	Backend string `json:"backend"`
	// SeedCheck is derived one-way from Options.Seed; empty for random seeds.
	SeedCheck string `json:"seedCheck,omitempty"`
}

func (m *meta) fits(b Backend) error {
	if m.Backend != b.Name() {
		return fmt.Errorf("the state was made by backend %q and cannot be used by %q", m.Backend, b.Name())
	}
	return nil
}

func readMeta(dir string) (*meta, error) {
	data, err := os.ReadFile(filepath.Join(dir, metaName))
	if err != nil {
		return nil, fmt.Errorf("not the state of a TPM: %w", err)
	}
	m := new(meta)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("reading %s: %w", filepath.Join(dir, metaName), err)
	}
	return m, nil
}

func seedCheck(seed []byte) (string, error) {
	if seed == nil {
		return "", nil
	}
	check, err := hkdf.Key(sha256.New, seed, nil, "keylab tpmsim seed check", 16)
	if err != nil {
		return "", fmt.Errorf("deriving the seed check: %w", err)
	}
	return hex.EncodeToString(check), nil
}

type stateDir struct {
	dir  string
	lock *os.File
}

// openStateDir locks o.Dir and makes sure that it holds a state for o.
func openStateDir(ctx context.Context, o Options) (*stateDir, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil || o.Dir == "" {
		return nil, fmt.Errorf("state directory %q: %w", o.Dir, errors.Join(err, errors.New("Options.Dir must name a directory")))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	// The directory may have been there with other rights; it holds private keys.
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("closing the state directory to others: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of the state directory: %w", err)
	}
	s := &stateDir{dir: dir, lock: lock}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("state directory %s is in use by another TPM or process; close that one first: %w", dir, err)
	}
	if err := s.prepare(ctx, o); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// close gives the directory free. The lock is given up in so many words: closing alone would not do while a child, forked by
// another goroutine a moment ago, still holds a copy of the descriptor until its exec.
func (s *stateDir) close() error {
	if s.lock.Fd() != ^uintptr(0) { // else it is closed already
		if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_UN); err != nil {
			return errors.Join(fmt.Errorf("giving the state directory free: %w", err), s.lock.Close())
		}
	}
	if err := s.lock.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("giving the state directory free: %w", err)
	}
	return nil
}

func (s *stateDir) path(name string) string { return filepath.Join(s.dir, name) }
func (s *stateDir) current() string         { return s.path(stateName) }

// prepare ends what an interruption left half done, and then checks the state or makes one.
func (s *stateDir) prepare(ctx context.Context, o Options) error {
	_, err := os.Stat(s.current())
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.Rename(s.path(oldName), s.current()); errors.Is(err, fs.ErrNotExist) {
			return s.create(ctx, o)
		}
	}
	if err != nil {
		return fmt.Errorf("looking for the TPM's state: %w", err)
	}
	if err := errors.Join(removeAll(s.path(newName), "an unfinished state"), removeAll(s.path(oldName), "a replaced state")); err != nil {
		return err
	}
	m, err := readMeta(s.current())
	if err != nil {
		return err
	}
	if err := m.fits(o.Backend); err != nil {
		return err
	}
	check, err := seedCheck(o.Seed)
	if err != nil {
		return err
	}
	if o.Seed != nil && check != m.SeedCheck {
		return fmt.Errorf("the TPM in %s was made from another seed; use that seed, none, or another directory", s.dir)
	}
	return nil
}

// create makes the state beside its place, so that state/ is either whole or missing.
func (s *stateDir) create(ctx context.Context, o Options) error {
	fresh := s.path(newName)
	if err := removeAll(fresh, "an unfinished state"); err != nil {
		return err
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return fmt.Errorf("making the state: %w", err)
	}
	check, err := seedCheck(o.Seed)
	if err != nil {
		return err
	}
	data, err := json.Marshal(meta{Backend: o.Backend.Name(), SeedCheck: check})
	if err != nil {
		return fmt.Errorf("writing %s: %w", metaName, err)
	}
	if err := atomicfile.Write(filepath.Join(fresh, metaName), append(data, '\n'), 0o600); err != nil {
		return err
	}
	if err := o.Backend.create(ctx, fresh, o.Seed, o.Log); err != nil {
		return err
	}
	if err := os.Rename(fresh, s.current()); err != nil {
		return fmt.Errorf("putting the new state in place: %w", err)
	}
	return nil
}

// copyTo copies the state into dir, by way of a neighbour of dir so that dir is whole or missing.
func (s *stateDir) copyTo(dir string) error {
	partial := filepath.Clean(dir) + ".partial"
	if err := removeAll(partial, "an unfinished snapshot"); err != nil {
		return err
	}
	if err := copyFlat(s.current(), partial); err != nil {
		return errors.Join(err, removeAll(partial, "an unfinished snapshot"))
	}
	// Rename replaces an empty directory and refuses a full one.
	if err := os.Rename(partial, dir); err != nil {
		return errors.Join(fmt.Errorf("putting the snapshot in place: %w", err), removeAll(partial, "an unfinished snapshot"))
	}
	return nil
}

// replaceBy replaces the state by a copy of dir. Interrupted anywhere, prepare finds the old or the new state whole.
func (s *stateDir) replaceBy(dir string) error {
	if err := removeAll(s.path(newName), "an unfinished state"); err != nil {
		return err
	}
	if err := copyFlat(dir, s.path(newName)); err != nil {
		return err
	}
	if err := removeAll(s.path(oldName), "a replaced state"); err != nil {
		return err
	}
	if err := os.Rename(s.current(), s.path(oldName)); err != nil {
		return fmt.Errorf("putting the old state aside: %w", err)
	}
	if err := os.Rename(s.path(newName), s.current()); err != nil {
		return errors.Join(fmt.Errorf("putting the new state in place: %w", err), os.Rename(s.path(oldName), s.current()))
	}
	return removeAll(s.path(oldName), "a replaced state")
}

// copyFlat copies the regular files of a directory, except lock files, into a new directory that only the owner can read.
func copyFlat(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return fmt.Errorf("copying a state: %w", err)
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("copying a state: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || e.Name() == ".lock" {
			continue
		}
		data, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return fmt.Errorf("copying a state: %w", err)
		}
		if err := atomicfile.Write(filepath.Join(to, e.Name()), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
