package ekca

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"keylab.dev/keylab/internal/atomicfile"
)

// Status of a certificate in the record. Expiry is not a status: it follows from the dates.
type Status string

// The statuses.
const (
	Valid   Status = "valid"
	Revoked Status = "revoked"
)

// Record is what the CA remembers of a certificate that it issued.
type Record struct {
	Serial              *big.Int
	Label               string // Request.Label
	SPKI                string // FingerprintSPKI of the certificate
	Issued              time.Time
	NotBefore, NotAfter time.Time
	Status              Status
	RevokedAt           time.Time // zero unless revoked
	Reason              int       // CRLReason, see CA.Revoke; meaningful only when revoked
	File                string    // the certificate in PEM
}

// Certificate reads the certificate of the record.
func (r Record) Certificate() (*x509.Certificate, error) { return readCertificate(r.File) }

// storedRecord is Record as it stands in issued/<serial>.json.
type storedRecord struct {
	Serial    string     `json:"serial"` // hex: JSON numbers lose digits in many readers
	Label     string     `json:"label,omitempty"`
	SPKI      string     `json:"spkiSHA256"`
	Issued    time.Time  `json:"issued"`
	NotBefore time.Time  `json:"notBefore"`
	NotAfter  time.Time  `json:"notAfter"`
	Status    Status     `json:"status"`
	RevokedAt *time.Time `json:"revokedAt,omitempty"`
	Reason    int        `json:"reason,omitempty"`
}

// MarshalJSON writes the serial number in hex and the times by RFC 3339, as in the CA's folder, without the file's path.
func (r Record) MarshalJSON() ([]byte, error) {
	s := storedRecord{
		Serial: serialName(r.Serial), Label: r.Label, SPKI: r.SPKI, Issued: r.Issued,
		NotBefore: r.NotBefore, NotAfter: r.NotAfter, Status: r.Status,
	}
	if r.Status == Revoked {
		s.RevokedAt, s.Reason = &r.RevokedAt, r.Reason
	}
	return json.Marshal(s)
}

// serialName is a serial number as file names and messages have it.
func serialName(serial *big.Int) string {
	if serial == nil {
		return "none"
	}
	return serial.Text(16)
}

func (ca *CA) recordPath(serial *big.Int, extension string) string {
	return filepath.Join(ca.dir, issuedDir, serialName(serial)+extension)
}

func encodeRecord(r Record) ([]byte, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	return append(data, '\n'), err
}

// record writes the entry that takes the serial number, then the certificate. A crash in between loses a certificate that nobody has
// seen yet.
func (ca *CA) record(cert *x509.Certificate, label string) error {
	data, err := encodeRecord(Record{
		Serial: cert.SerialNumber, Label: label, SPKI: FingerprintSPKI(cert), Issued: ca.cfg.Now().UTC(),
		NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, Status: Valid,
	})
	if err != nil {
		return err
	}
	if err := createFile(ca.recordPath(cert.SerialNumber, ".json"), data, publicFileMode); err != nil {
		return err
	}
	if err := atomicfile.Write(ca.recordPath(cert.SerialNumber, ".pem"), PEM(cert), publicFileMode); err != nil {
		return errors.Join(err, os.Remove(ca.recordPath(cert.SerialNumber, ".json")))
	}
	return nil
}

func (ca *CA) readRecord(path string) (Record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Record{}, err
	}
	var s storedRecord
	if err := json.Unmarshal(data, &s); err != nil {
		return Record{}, fmt.Errorf("%s: %w", path, err)
	}
	serial, ok := new(big.Int).SetString(s.Serial, 16)
	if !ok || filepath.Base(path) != serialName(serial)+".json" {
		return Record{}, fmt.Errorf("%s: serial number %q does not fit the file's name", path, s.Serial)
	}
	if s.Status != Valid && s.Status != Revoked {
		return Record{}, fmt.Errorf("%s: unknown status %q", path, s.Status)
	}
	r := Record{
		Serial: serial, Label: s.Label, SPKI: s.SPKI, Issued: s.Issued, NotBefore: s.NotBefore, NotAfter: s.NotAfter,
		Status: s.Status, Reason: s.Reason, File: ca.recordPath(serial, ".pem"),
	}
	if s.RevokedAt != nil {
		r.RevokedAt = *s.RevokedAt
	}
	return r, nil
}

// Issued gives the record of every certificate issued, in the order of issue.
func (ca *CA) Issued() ([]Record, error) {
	dir := filepath.Join(ca.dir, issuedDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list issued EK certificates: %w", err)
	}
	var records []Record
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || filepath.Ext(e.Name()) != ".json" {
			continue
		}
		r, err := ca.readRecord(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("list issued EK certificates: %w", err)
		}
		records = append(records, r)
	}
	slices.SortFunc(records, func(a, b Record) int {
		if c := a.Issued.Compare(b.Issued); c != 0 {
			return c
		}
		return a.Serial.Cmp(b.Serial)
	})
	return records, nil
}

// Lookup finds the record of cert. The error wraps ErrNotIssued when this CA never issued exactly that certificate, even if its key
// signed it: that is how a certificate made with a stolen CA key is found out.
func (ca *CA) Lookup(cert *x509.Certificate) (Record, error) {
	if cert == nil || cert.SerialNumber == nil {
		return Record{}, fmt.Errorf("look up EK certificate: %w: no certificate given", ErrNotIssued)
	}
	r, err := ca.lookupSerial(cert.SerialNumber)
	if err != nil {
		return Record{}, err
	}
	known, err := readCertificate(r.File)
	if err != nil {
		return Record{}, fmt.Errorf("look up EK certificate %s: %w", serialName(cert.SerialNumber), err)
	}
	if !bytes.Equal(known.Raw, cert.Raw) {
		return Record{}, fmt.Errorf("look up EK certificate %s: %w: another certificate has that serial number", serialName(cert.SerialNumber), ErrNotIssued)
	}
	return r, nil
}

func (ca *CA) lookupSerial(serial *big.Int) (Record, error) {
	r, err := ca.readRecord(ca.recordPath(serial, ".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, fmt.Errorf("look up EK certificate %s: %w of %s", serialName(serial), ErrNotIssued, ca.Issuer().Subject.CommonName)
	} else if err != nil {
		return Record{}, fmt.Errorf("look up EK certificate %s: %w", serialName(serial), err)
	}
	return r, nil
}
