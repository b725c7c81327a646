package authority

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/internal/atomicfile"
)

var validName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,22}[a-z0-9]$`)

// reserved are names below the CAs' folder, or of what is no CA of the lab's.
var reserved = []string{Stranger, "record", "lock", "leaked", "cross"}

// NextName is a name that no CA has: ca-2, ca-3, …
func (s *Set) NextName() (string, error) {
	r, err := s.read()
	if err != nil {
		return "", err
	}
	for n := 2; ; n++ {
		name := fmt.Sprintf("ca-%d", n)
		if !slices.ContainsFunc(r.CAs, func(e entry) bool { return e.Name == name }) {
			return name, nil
		}
	}
}

// New makes another EK CA, with a root and intermediates of its own, as deep as the first. Nobody trusts it, and it is not active. algorithm is that of
// its keys, "" the first one's.
func (s *Set) New(name, algorithm string) (CA, error) {
	if !validName.MatchString(name) || slices.Contains(reserved, name) {
		return CA{}, fmt.Errorf("%q cannot be the name of an EK CA: 2 to 24 lower-case letters, digits and dashes, a letter first, and none of %v", name, reserved)
	}
	err := s.change(func(r *record) error {
		if slices.ContainsFunc(r.CAs, func(e entry) bool { return e.Name == name }) {
			return fmt.Errorf("the lab has an EK CA %q already", name)
		}
		// One that is there without being in the record is from an attempt that was interrupted.
		ca, _, err := ekca.OpenOrCreate(s.folder(name), s.config(name, algorithm))
		if err != nil {
			return err
		}
		s.keep(name, ca)
		r.CAs = append(r.CAs, entry{Name: name})
		return nil
	})
	if err != nil {
		return CA{}, err
	}
	return s.Get(name)
}

// Trust puts a CA's certificates of a level into the tpm_cert_store, beside what is there of other CAs, and takes those of other levels out. It returns
// the names of the CA's files in it.
func (s *Set) Trust(name string, level Level) (files []string, err error) {
	if !slices.Contains(Levels, level) {
		return nil, fmt.Errorf("there is no level %q; there are %v", level, Levels)
	}
	err = s.changeOne(name, func(e *entry) error {
		e.Trusted = level
		files, err = s.export(*e)
		return err
	})
	return files, err
}

// Distrust takes all of a CA out of the tpm_cert_store, the certificates that others made for it too.
func (s *Set) Distrust(name string) error {
	return s.changeOne(name, func(e *entry) error {
		e.Trusted, e.Cross = None, nil
		_, err := s.export(*e)
		return err
	})
}

// CrossSign has one CA certify another one's issuing CA, and puts that certificate into the store. It returns it, and its name there.
func (s *Set) CrossSign(name, by string) (cert *x509.Certificate, file string, err error) {
	signer, err := s.Get(by)
	if err != nil {
		return nil, "", err
	}
	if name == by {
		return nil, "", fmt.Errorf("%s cannot cross-sign itself", by)
	}
	err = s.changeOne(name, func(e *entry) error {
		subject, err := s.openCA(name)
		if err != nil {
			return err
		}
		if cert, err = signer.CrossSign(subject); err != nil {
			return err
		}
		path := s.crossFile(name, by)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("make the folder of cross certificates: %w", err)
		}
		if err := atomicfile.Write(path, ekca.PEM(cert), 0o644); err != nil {
			return err
		}
		if !slices.Contains(e.Cross, by) {
			e.Cross = append(e.Cross, by)
		}
		files, err := s.export(*e)
		if err == nil {
			file = files[len(e.levels(subject))+slices.Index(e.Cross, by)]
		}
		return err
	})
	return cert, file, err
}

// Activate has a CA issue for new TPMs from now on. The one that did is retired.
func (s *Set) Activate(name string) (before string, err error) {
	if name == Stranger {
		return "", errors.New("the stranger's CA is not the lab's: it cannot be active")
	}
	err = s.change(func(r *record) error {
		e, err := r.find(name)
		if err != nil {
			return err
		}
		before = r.Active
		if before == name {
			return nil
		}
		e.Retired = false
		if old, err := r.find(before); err == nil {
			old.Retired = true
		}
		r.Active = name
		if r.Unproved != name {
			r.Unproved = ""
		}
		return nil
	})
	return before, err
}

// MarkUnproved remembers that a rotation goes to a CA, until MarkProved.
func (s *Set) MarkUnproved(name string) error {
	if _, err := s.Get(name); err != nil {
		return err
	}
	return s.change(func(r *record) error {
		r.Unproved = name
		return nil
	})
}

// MarkProved remembers that the rotation to a CA was proved to be complete.
func (s *Set) MarkProved(name string) error {
	return s.change(func(r *record) error {
		if r.Unproved == name {
			r.Unproved = ""
		}
		return nil
	})
}

// MarkLeaked remembers that somebody else has a CA's key.
func (s *Set) MarkLeaked(name string) error {
	return s.changeOne(name, func(e *entry) error {
		e.Leaked = true
		return nil
	})
}

func (s *Set) changeOne(name string, do func(*entry) error) error {
	if _, err := s.Get(name); err != nil {
		return err
	}
	return s.change(func(r *record) error {
		e, err := r.find(name)
		if err != nil {
			return err
		}
		return do(e)
	})
}

func (s *Set) crossFile(name, by string) string {
	return filepath.Join(s.dir.EKCAs(), "cross", name+"-by-"+by+".pem")
}

// levels are the CA's own certificates that the store shall hold.
func (e entry) levels(ca *ekca.CA) []*x509.Certificate {
	switch e.Trusted {
	case All:
		return ca.Chain()
	case Issuer:
		return []*x509.Certificate{ca.Issuer()}
	case Root:
		return []*x509.Certificate{ca.Root()}
	}
	return nil
}

// export has the store hold of a CA what its entry says, and gives the names of its files there.
func (s *Set) export(e entry) ([]string, error) {
	ca, err := s.openCA(e.Name)
	if err != nil {
		if e.Name == Stranger && errors.Is(err, ekca.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	certs := e.levels(ca)
	for _, by := range e.Cross {
		data, err := os.ReadFile(s.crossFile(e.Name, by))
		if err != nil {
			return nil, fmt.Errorf("read the certificate of %s for %s: %w", by, e.Name, err)
		}
		block, _ := pem.Decode(data)
		if block == nil {
			return nil, fmt.Errorf("%s holds no PEM certificate", s.crossFile(e.Name, by))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", s.crossFile(e.Name, by), err)
		}
		certs = append(certs, cert)
	}
	paths, err := ca.ExportStoreOnly(s.dir.CertStore(), certs...)
	names := make([]string, len(paths))
	for i, path := range paths {
		names[i] = filepath.Base(path)
	}
	return names, err
}
