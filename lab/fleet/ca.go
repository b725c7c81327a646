package fleet

import (
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// OpenCAs opens the lab's CAs, or makes them, and has the tpm_cert_store hold those that are trusted.
func OpenCAs(dir state.Dir, c plan.EKCA) (*authority.Set, error) {
	set := authority.Open(dir, c)
	return set, set.Prepare()
}

// IssueEK is the TPM maker's part: a certificate (DER) for a node's EK by the lab's active CA, or by the stranger's where the plan says so.
func IssueEK(set *authority.Set, n plan.Node, ek crypto.PublicKey) ([]byte, error) {
	ca, err := set.Active()
	if n.EK.Stranger {
		ca, err = set.Get(authority.Stranger)
	}
	if err != nil {
		return nil, err
	}
	request := ekRequest(n, ek)
	if n.EK.NotAfter != nil {
		request.NotAfter = *n.EK.NotAfter
	}
	if n.EK.Expired {
		expire(&request)
	}
	cert, err := ca.Issue(request)
	if err != nil {
		return nil, err
	}
	return cert.Raw, nil
}

func ekRequest(n plan.Node, ek crypto.PublicKey) ekca.Request {
	return ekca.Request{
		Public: ek, Label: n.Name,
		TPM: ekca.Model{Manufacturer: n.TPM.Manufacturer, Model: n.TPM.Model, Version: n.TPM.Version},
	}
}

// expire asks for a certificate that was valid until yesterday.
func expire(r *ekca.Request) {
	r.NotBefore, r.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
}

// WithoutEK tells whether a node's TPM is to have no EK certificate: the plan wants none, or it was taken out later.
func WithoutEK(dir state.Dir, n plan.Node) (bool, error) {
	_, err := os.Stat(ekAbsentFile(dir, n))
	if errors.Is(err, fs.ErrNotExist) {
		return n.EK.Absent, nil
	}
	if err != nil {
		return false, fmt.Errorf("whether the TPM of %s has an EK certificate: %w", n.Name, err)
	}
	return true, nil
}

// noteEKAbsent remembers whether a TPM's certificate was taken out, so that the next start of the lab does not make one.
func noteEKAbsent(dir state.Dir, n plan.Node, absent bool) error {
	if absent {
		return atomicfile.Write(ekAbsentFile(dir, n), nil, 0o600)
	}
	if err := os.Remove(ekAbsentFile(dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remember the EK certificate of %s: %w", n.Name, err)
	}
	return nil
}

// The mark is beside the TPM's folder, as the count of replacements is.
func ekAbsentFile(dir state.Dir, n plan.Node) string {
	return dir.TPM(n.Name) + ".without-ek-certificate"
}
