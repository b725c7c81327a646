package ekca

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"keylab.dev/keylab/internal/atomicfile"
)

// CRLValidity is the time from a CRL's thisUpdate to its nextUpdate.
const CRLValidity = 30 * 24 * time.Hour

// Revoke marks a certificate as revoked, now, for a reason of RFC 5280, section 5.3.1: 0 unspecified, 1 keyCompromise, 2 cACompromise,
// 3 affiliationChanged, 4 superseded, 5 cessationOfOperation, 6 certificateHold, 9 privilegeWithdrawn, 10 aACompromise. Once revoked,
// a certificate stays as it is: a second call changes nothing and succeeds. The error wraps ErrNotIssued for an unknown serial number.
func (ca *CA) Revoke(serial *big.Int, reason int) error {
	if serial == nil || serial.Sign() <= 0 {
		return fmt.Errorf("revoke EK certificate: %w: serial number %s", ErrNotIssued, serialName(serial))
	}
	// 7 is unused, and 8 (removeFromCRL) belongs in delta CRLs only.
	if reason < 0 || reason > 10 || reason == 7 || reason == 8 {
		return fmt.Errorf("revoke EK certificate %s: %d is no reason for revocation (RFC 5280, section 5.3.1)", serialName(serial), reason)
	}
	unlock, err := ca.lock()
	if err != nil {
		return fmt.Errorf("revoke EK certificate %s: %w", serialName(serial), err)
	}
	defer unlock()
	r, err := ca.lookupSerial(serial)
	if err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	if r.Status == Revoked {
		return nil
	}
	r.Status, r.RevokedAt, r.Reason = Revoked, ca.cfg.Now().UTC().Truncate(time.Second), reason
	data, err := encodeRecord(r)
	if err == nil {
		err = atomicfile.Write(ca.recordPath(serial, ".json"), data, publicFileMode)
	}
	if err != nil {
		return fmt.Errorf("revoke EK certificate %s: %w", serialName(serial), err)
	}
	return nil
}

// CRL makes a certificate revocation list of all certificates revoked so far, in DER, signed by the issuing CA (RFC 5280, section 5).
// Each call takes the next CRL number; the list is good for CRLValidity and also kept in the CA's folder.
func (ca *CA) CRL() ([]byte, error) {
	der, err := ca.crl()
	if err != nil {
		return nil, fmt.Errorf("make the CRL of %q: %w", ca.Issuer().Subject, err)
	}
	return der, nil
}

func (ca *CA) crl() ([]byte, error) {
	unlock, err := ca.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	number, err := ca.nextCRLNumber()
	if err != nil {
		return nil, err
	}
	records, err := ca.Issued()
	if err != nil {
		return nil, err
	}
	now := ca.cfg.Now().UTC().Truncate(time.Second)
	list := &x509.RevocationList{Number: number, ThisUpdate: now, NextUpdate: now.Add(CRLValidity)}
	for _, r := range records {
		if r.Status == Revoked {
			list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
				x509.RevocationListEntry{SerialNumber: r.Serial, RevocationTime: r.RevokedAt, ReasonCode: r.Reason})
		}
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, ca.Issuer(), ca.signer)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return der, atomicfile.Write(filepath.Join(ca.dir, crlFile), der, publicFileMode)
}

// nextCRLNumber takes a number under the lock; one taken for a CRL that then fails is never used again.
func (ca *CA) nextCRLNumber() (*big.Int, error) {
	path := filepath.Join(ca.dir, crlNumberFile)
	number := new(big.Int)
	data, err := os.ReadFile(path)
	if err == nil {
		if _, ok := number.SetString(strings.TrimSpace(string(data)), 10); !ok {
			return nil, fmt.Errorf("%s: %q is no number", path, data)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	number.Add(number, big.NewInt(1))
	return number, atomicfile.Write(path, []byte(number.String()+"\n"), publicFileMode)
}
