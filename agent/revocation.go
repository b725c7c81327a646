package agent

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// NotifierCertificate is the file of an unpacked payload by which notices are
// checked (keylime_tenant --cert; the Rust agent's option revocation_cert).
const NotifierCertificate = "RevocationNotifier-cert.crt"

// Revocation is a verifier's notice that an agent failed attestation.
type Revocation struct {
	Message   string `json:"msg"`       // JSON text; see Notice
	Signature string `json:"signature"` // base64, over Message, by the verifier's revocation key; "" for none
	// Problem says why the notice is not to be trusted: ErrUnsigned,
	// ErrNoNotifier or ErrForged is in it. Nil for one that was checked.
	Problem error `json:"-"`
	// Number tells the notices that an agent got apart: 1 for the first.
	Number uint64 `json:"-"`
}

// Why a notice is not to be trusted.
var (
	ErrUnsigned   = errors.New("the notice is not signed")
	ErrNoNotifier = errors.New("there is no certificate to check the notice by")
	ErrForged     = errors.New("the signature of the notice is not right")
)

// Notice is what Keylime's verifier says in a notice (keylime 7.14,
// cloud_verifier_common.prepare_error); it says more, which is not read.
type Notice struct {
	Type     string `json:"type"` // revocation, or comm_error for an agent that could not be reached
	AgentID  string `json:"agent_id"`
	EventID  string `json:"event_id"`
	Severity string `json:"severity_label"`
	Time     string `json:"event_time"` // local time in C's asctime format
}

// ParseNotice reads a notice's message, whoever signed it.
func ParseNotice(message string) (Notice, error) {
	var n Notice
	if err := json.Unmarshal([]byte(message), &n); err != nil {
		return n, fmt.Errorf("read the notice: %w", err)
	}
	return n, nil
}

// CheckNotice checks a notice's signature as the Rust agent does (asym_verify):
// RSASSA-PSS with SHA-256 and the longest salt (RFC 8017, sections 8.1 and 9.1).
func CheckNotice(notifier *x509.Certificate, message, signature string) error {
	if signature == "" {
		return ErrUnsigned
	}
	if notifier == nil {
		return ErrNoNotifier
	}
	key, ok := notifier.PublicKey.(*rsa.PublicKey)
	if !ok {
		return fmt.Errorf("%w: the certificate holds no RSA key", ErrNoNotifier)
	}
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrForged, err)
	}
	sum := sha256.Sum256([]byte(message))
	salt := (key.N.BitLen()-1+7)/8 - sha256.Size - 2
	if err := rsa.VerifyPSS(key, crypto.SHA256, sum[:], raw, &rsa.PSSOptions{SaltLength: salt}); err != nil {
		return fmt.Errorf("%w: %w", ErrForged, err)
	}
	return nil
}

// ReadNotifier reads the certificate by which notices are checked.
func ReadNotifier(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the revocation certificate: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("the revocation certificate %s is no PEM certificate", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the revocation certificate %s: %w", path, err)
	}
	return cert, nil
}

// loadNotifier takes the certificate out of a payload that has one.
func (a *Agent) loadNotifier(dir string) {
	cert, err := ReadNotifier(filepath.Join(dir, NotifierCertificate))
	switch {
	case errors.Is(err, fs.ErrNotExist): // what was there before, if anything, stays
	case err != nil:
		a.log.Warn("the payload's revocation certificate", "error", err)
		a.notifier.Store(nil)
	default:
		a.notifier.Store(cert)
		a.log.Info("revocation certificate loaded", "subject", cert.Subject.String())
	}
}

// revocation takes a notice, checks it, and has the actions run that are meant for
// it; the last ones can be read with Revocations. The verifier learns nothing of the check, as from the Rust agent.
func (a *Agent) revocation(r *request) answer {
	body, problem := readTexts(r, []string{"msg", "signature"})
	if problem != nil {
		return *problem
	}
	n := Revocation{Message: body["msg"], Signature: body["signature"]}
	n.Problem = CheckNotice(a.notifier.Load(), n.Message, n.Signature)
	n.Number = a.book.revocation(n)
	a.log.Info("revocation notice", "problem", n.Problem)
	if a.cfg.OnRevocation != nil {
		a.cfg.OnRevocation(n)
	}
	if n.Problem == nil {
		a.startActions(n)
	}
	return success(nil)
}
