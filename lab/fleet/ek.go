package fleet

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/state"
)

// OrderCA carries out an order that is about the lab's CAs and the tpm_cert_store alone, which needs no running lab.
func OrderCA(dir state.Dir, set *authority.Set, o control.EKOrder) (control.EKDone, error) {
	done, err := orderCA(dir, set, o)
	if err != nil {
		return control.EKDone{}, fmt.Errorf("ek %s %s: %w", o.Kind, o.CA, err)
	}
	done.CA = o.CA
	return done, nil
}

func orderCA(dir state.Dir, set *authority.Set, o control.EKOrder) (control.EKDone, error) {
	if o.CA == "" {
		return control.EKDone{}, errors.New("no CA is named")
	}
	switch o.Kind {
	case control.EKNewCA:
		ca, err := set.New(o.CA, o.Algorithm)
		if err != nil {
			return control.EKDone{}, err
		}
		return control.EKDone{
			Text: fmt.Sprintf("it is there: %s", subjects(ca)), Hint: "nobody trusts it yet",
			Serial: serial(ca.Issuer()), Certificate: ca.Issuer().Raw,
		}, nil
	case control.EKTrust:
		level := authority.Level(o.Level)
		if level == authority.None {
			level = authority.All
		}
		files, err := set.Trust(o.CA, level)
		return control.EKDone{Text: "the tpm_cert_store has " + strings.Join(files, " and "), Files: files}, err
	case control.EKDistrust:
		return distrust(dir, set, o.CA)
	case control.EKActivate:
		before, err := set.Activate(o.CA)
		switch {
		case err != nil:
			return control.EKDone{}, err
		case before == o.CA:
			return control.EKDone{Text: "it issues for new TPMs already"}, nil
		}
		return control.EKDone{Text: fmt.Sprintf("new TPMs get their certificates from it; %s is retired", before)}, nil
	case control.EKCrossSign:
		cert, file, err := set.CrossSign(o.CA, o.By)
		if err != nil {
			return control.EKDone{}, err
		}
		return control.EKDone{
			Text:   fmt.Sprintf("%s has certified it, serial %s; the tpm_cert_store has %s", o.By, serial(cert), file),
			Serial: serial(cert), Certificate: cert.Raw, Files: []string{file},
		}, nil
	case control.EKLeak:
		return leak(dir, set, o.CA)
	}
	return control.EKDone{}, fmt.Errorf("there is no such order; there are %s", strings.Join(control.EKOrders, ", "))
}

func distrust(dir state.Dir, set *authority.Set, name string) (control.EKDone, error) {
	if err := set.Distrust(name); err != nil {
		return control.EKDone{}, err
	}
	ca, err := set.Get(name)
	if err != nil {
		return control.EKDone{}, err
	}
	left, err := ca.InStore(dir.CertStore())
	if err != nil {
		return control.EKDone{}, err
	}
	text := "the tpm_cert_store has nothing of it any more"
	if len(left) > 0 {
		text = fmt.Sprintf("what keylab had put into the tpm_cert_store is gone, but %s there, which somebody else put there, has its key", strings.Join(left, " and "))
	}
	return control.EKDone{Text: text, Hint: "agents that were added stay trusted, for the tenant looks at the store only when it adds one", Files: left}, nil
}

// leak does what a thief of the CA's key would: he certifies an EK of his own, and no record tells of it.
func leak(dir state.Dir, set *authority.Set, name string) (control.EKDone, error) {
	ca, err := set.Get(name)
	if err != nil {
		return control.EKDone{}, err
	}
	thief, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return control.EKDone{}, fmt.Errorf("make the thief's EK: %w", err)
	}
	cert, err := ca.Issue(ekca.Request{Public: thief.Public(), Unrecorded: true})
	if err != nil {
		return control.EKDone{}, err
	}
	if err := errors.Join(set.MarkLeaked(name), set.KeepLeaked(cert)); err != nil {
		return control.EKDone{}, err
	}
	done := control.EKDone{Serial: serial(cert), Certificate: cert.Raw}
	done.Text = fmt.Sprintf("somebody has its key, and certified a TPM of his own: serial %s, which is in no record; ", done.Serial)
	file, err := ekca.CheckStore(dir.CertStore(), cert)
	switch {
	case errors.Is(err, ekca.ErrNotInStore):
		done.Text += "the tpm_cert_store does not vouch for it"
	case err != nil:
		return control.EKDone{}, err
	default:
		done.Files = []string{filepath.Base(file)}
		done.Text += fmt.Sprintf("%s of the tpm_cert_store vouches for it, so that Keylime's tenant would accept it", done.Files[0])
	}
	return done, nil
}

// subjects names the certificates of a CA, root first.
func subjects(ca authority.CA) string {
	var names []string
	for _, cert := range slices.Backward(ca.Chain()) {
		names = append(names, cert.Subject.CommonName)
	}
	return strings.Join(names, " → ")
}

// serial is a serial number as the lab shows it.
func serial(cert *x509.Certificate) string { return fmt.Sprintf("%X", cert.SerialNumber) }
