package authority

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// Names of CAs that nobody makes by an order.
const (
	First    = "ca-1"     // the one that the lab was made with
	Stranger = "stranger" // the one that nobody trusts, in labs that have a node with a certificate of it
)

// Level says which certificates of a CA are in the tpm_cert_store.
type Level string

// The levels.
const (
	None   Level = ""
	All    Level = "all"    // every level, a file each
	Issuer Level = "issuer" // the CA that signs EK certificates: all that Keylime looks at
	Root   Level = "root"   // the root alone, by which Keylime accepts no certificate that an intermediate CA signed
)

// Levels are those at which a CA can be trusted.
var Levels = []Level{All, Issuer, Root}

// CA is one of the lab's EK CAs.
type CA struct {
	*ekca.CA
	Name   string
	Active bool // new TPMs get their certificates from it
	// Unproved: a rotation went to it, and was not proved to be complete yet.
	Unproved bool
	Retired  bool     // it was active, and another has taken its place
	Leaked   bool     // somebody else has its key
	Level    Level    // what of it was put into the store
	Cross    []string // CAs that have certified its issuing CA too, whose certificates for it were put into the store
}

// Trusted tells whether anything of the CA was put into the store. What Keylime makes of that is for ekca.CheckStore to say.
func (c CA) Trusted() bool { return c.Level != None || len(c.Cross) > 0 }

// ErrUnknown says that the lab has no CA of that name.
var ErrUnknown = errors.New("no such EK CA")

// Set is the EK CAs of one lab. Its methods may be called by several goroutines and several processes at once.
type Set struct {
	dir  state.Dir
	plan plan.EKCA

	mu   sync.Mutex
	open map[string]*ekca.CA
}

// Open names the CAs of a lab's folder, and touches nothing.
func Open(dir state.Dir, p plan.EKCA) *Set {
	return &Set{dir: dir, plan: p, open: map[string]*ekca.CA{}}
}

// Prepare makes the CAs that the plan wants, if they are not there, and has the tpm_cert_store hold what is trusted.
func (s *Set) Prepare() error {
	first, _, err := ekca.OpenOrCreate(s.folder(First), s.config("", ""))
	if err != nil {
		return err
	}
	s.keep(First, first)
	if s.plan.Stranger {
		config := s.config("", "")
		config.RootName, config.IntermediateName, config.Organization = "Stranger's Root CA", "Stranger's Intermediate CA", "not the lab's TPM maker"
		stranger, _, err := ekca.OpenOrCreate(s.folder(Stranger), config)
		if err != nil {
			return err
		}
		s.keep(Stranger, stranger)
	}
	r, err := s.read()
	if err != nil {
		return err
	}
	for _, e := range r.CAs {
		if _, err := s.export(e); err != nil {
			return err
		}
	}
	return nil
}

// keep remembers an open CA: its keys do not change.
func (s *Set) keep(name string, ca *ekca.CA) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[name] = ca
}

// folder is where a CA is.
func (s *Set) folder(name string) string {
	switch name {
	case First:
		return s.dir.EKCA()
	case Stranger:
		return s.dir.StrangerCA()
	}
	return filepath.Join(s.dir.EKCAs(), name)
}

func (s *Set) openCA(name string) (*ekca.CA, error) {
	s.mu.Lock()
	ca := s.open[name]
	s.mu.Unlock()
	if ca != nil {
		return ca, nil
	}
	ca, err := ekca.Open(s.folder(name))
	if err != nil {
		return nil, err
	}
	s.keep(name, ca)
	return ca, nil
}

// List is the lab's CAs in the order in which they were made, without the stranger's.
func (s *Set) List() ([]CA, error) {
	r, err := s.read()
	if err != nil {
		return nil, err
	}
	var list []CA
	for _, e := range r.CAs {
		if e.Name == Stranger {
			continue
		}
		ca, err := s.openCA(e.Name)
		if err != nil {
			return nil, err
		}
		list = append(list, r.describe(e, ca))
	}
	return list, nil
}

// Get finds one CA by its name, be it the stranger's. The error wraps ErrUnknown when there is none.
func (s *Set) Get(name string) (CA, error) {
	r, err := s.read()
	if err != nil {
		return CA{}, err
	}
	e, err := r.find(name)
	if err != nil {
		return CA{}, err
	}
	ca, err := s.openCA(name)
	if errors.Is(err, fs.ErrNotExist) {
		return CA{}, r.unknown(name)
	} else if err != nil {
		return CA{}, err
	}
	return r.describe(*e, ca), nil
}

// Active is the CA that issues for new TPMs.
func (s *Set) Active() (CA, error) {
	r, err := s.read()
	if err != nil {
		return CA{}, err
	}
	return s.Get(r.Active)
}

// Of finds the CA whose key signed a certificate, be it the stranger's. ok is false when none did.
func (s *Set) Of(cert *x509.Certificate) (ca CA, ok bool, err error) {
	list, err := s.List()
	if err != nil {
		return CA{}, false, err
	}
	if stranger, err := s.Get(Stranger); err == nil {
		list = append(list, stranger)
	}
	for _, ca := range list {
		if ca.Signed(cert) {
			return ca, true, nil
		}
	}
	return CA{}, false, nil
}

// LeakedFile is where a certificate is kept that somebody made with a stolen key.
func (s *Set) LeakedFile(cert *x509.Certificate) string {
	return filepath.Join(s.dir.EKCAs(), "leaked", fmt.Sprintf("%x.pem", cert.SerialNumber))
}

// KeepLeaked keeps a certificate that somebody made with a stolen key, for people to look at: no CA's record holds it.
func (s *Set) KeepLeaked(cert *x509.Certificate) error {
	path := s.LeakedFile(cert)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep the thief's certificate: %w", err)
	}
	if err := os.WriteFile(path, ekca.PEM(cert), 0o644); err != nil {
		return fmt.Errorf("keep the thief's certificate: %w", err)
	}
	return nil
}

// LeakedCertificate is one that somebody made with a stolen key.
type LeakedCertificate struct {
	*x509.Certificate
	CA string // whose key it was; "" where the lab does not know that CA any more
}

// LeakedCertificates are those that KeepLeaked kept, in the order in which they were made.
func (s *Set) LeakedCertificates() ([]LeakedCertificate, error) {
	files, err := filepath.Glob(filepath.Join(s.dir.EKCAs(), "leaked", "*.pem"))
	if err != nil {
		return nil, fmt.Errorf("find the thieves' certificates: %w", err)
	}
	var list []LeakedCertificate
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read a thief's certificate: %w", err)
		}
		block, _ := pem.Decode(data)
		if block == nil {
			return nil, fmt.Errorf("read a thief's certificate: %s holds no PEM block", file)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read a thief's certificate, %s: %w", file, err)
		}
		ca, _, err := s.Of(cert)
		if err != nil {
			return nil, err
		}
		list = append(list, LeakedCertificate{cert, ca.Name})
	}
	slices.SortStableFunc(list, func(a, b LeakedCertificate) int { return a.NotBefore.Compare(b.NotBefore) })
	return list, nil
}

// nameLength is the longest common name (X.520, ub-common-name), less what ekca appends to those of several levels.
const nameLength = 64 - 2

// config is that of the plan's CA, or of another one with the suffix in its names: equal names would make one CA look like the other to whoever goes by
// names, as Keylime does first.
func (s *Set) config(suffix, algorithm string) ekca.Config {
	c := s.plan
	config := ekca.Config{
		Algorithm: ekca.KeyAlgorithm(c.Algorithm), Intermediates: c.Intermediates,
		Organization: c.Organization, RootName: c.RootName, IntermediateName: c.IntermediateName,
		Validity: time.Duration(c.Validity), EKValidity: time.Duration(c.EKValidity), CRLURL: c.CRLURL, AIAURL: c.AIAURL,
	}
	if algorithm != "" {
		config.Algorithm = ekca.KeyAlgorithm(algorithm)
	}
	if suffix != "" {
		config.RootName, config.IntermediateName = suffixed(c.RootName, suffix), suffixed(c.IntermediateName, suffix)
		config.CRLURL, config.AIAURL = "", "" // they are the first CA's
	}
	return config
}

func suffixed(name, suffix string) string {
	runes := []rune(name)
	return string(runes[:min(len(runes), nameLength-1-len(suffix))]) + " " + suffix
}
