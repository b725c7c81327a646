package authority

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/internal/atomicfile"
)

// record is what the lab's folder remembers of its CAs beside their own folders.
type record struct {
	Active string  `json:"active"`
	CAs    []entry `json:"cas"` // in the order in which they were made
	// Unproved is the CA that a rotation goes to, until that is proved to be complete.
	Unproved string `json:"unproved,omitempty"`
}

type entry struct {
	Name    string   `json:"name"`
	Trusted Level    `json:"trusted,omitempty"`
	Cross   []string `json:"cross,omitempty"`
	Retired bool     `json:"retired,omitempty"`
	Leaked  bool     `json:"leaked,omitempty"`
}

func (s *Set) recordFile() string { return filepath.Join(s.dir.EKCAs(), "record.json") }

// read gives the record; of a lab whose CAs were never changed, that it has one, which is active and trusted.
func (s *Set) read() (record, error) {
	r := record{Active: First, CAs: []entry{{Name: First, Trusted: All}}}
	data, err := os.ReadFile(s.recordFile())
	if err == nil {
		r = record{}
		err = json.Unmarshal(data, &r)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return r, fmt.Errorf("read the record of the lab's EK CAs, %s: %w", s.recordFile(), err)
	}
	return r, nil
}

// Changed tells whether anything was ever done to the lab's CAs.
func (s *Set) Changed() bool {
	_, err := os.Stat(s.recordFile())
	return err == nil
}

// change changes the record, while nobody else does. Nothing is kept when do fails.
func (s *Set) change(do func(*record) error) error {
	if err := os.MkdirAll(s.dir.EKCAs(), 0o700); err != nil {
		return fmt.Errorf("make the folder of the EK CAs: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(s.dir.EKCAs(), "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("lock the EK CAs: %w", err)
	}
	defer lock.Close() // which gives the lock up
	for {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	r, err := s.read()
	if err != nil {
		return err
	}
	if err := do(&r); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the record of the EK CAs: %w", err)
	}
	return atomicfile.Write(s.recordFile(), append(data, '\n'), 0o600)
}

// find gives a CA's entry, for changing too; the stranger's comes to be when it is asked for.
func (r *record) find(name string) (*entry, error) {
	for i := range r.CAs {
		if r.CAs[i].Name == name {
			return &r.CAs[i], nil
		}
	}
	if name == Stranger {
		r.CAs = append(r.CAs, entry{Name: Stranger})
		return &r.CAs[len(r.CAs)-1], nil
	}
	return nil, r.unknown(name)
}

func (r record) unknown(name string) error {
	var names []string
	for _, e := range r.CAs {
		if e.Name != Stranger {
			names = append(names, e.Name)
		}
	}
	return fmt.Errorf("%w %q; the lab has %s", ErrUnknown, name, strings.Join(names, ", "))
}

func (r record) describe(e entry, ca *ekca.CA) CA {
	return CA{CA: ca, Name: e.Name, Active: r.Active == e.Name, Unproved: r.Unproved == e.Name, Retired: e.Retired, Leaked: e.Leaked, Level: e.Trusted, Cross: slices.Clone(e.Cross)}
}
