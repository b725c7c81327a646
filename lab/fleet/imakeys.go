package fleet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"keylab.dev/keylab/ima"
	"keylab.dev/keylab/internal/atomicfile"
	"keylab.dev/keylab/internal/keypem"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

// Sign signs the file of a measurement for which that is asked: its Digest and Signature are set. A key is made when it is first used.
func Sign(dir state.Dir, n plan.Node, m *control.Measurement) error {
	if m.Kind != control.MeasureFile || m.Sign == "" {
		return nil
	}
	if m.Sign != control.SignLab && m.Sign != control.SignStranger {
		return fmt.Errorf("there is no key %q to sign with: it is %s or %s", m.Sign, control.SignLab, control.SignStranger)
	}
	if n.IMA == nil {
		return errNoFiles(n)
	}
	if n.IMA.Template != string(ima.TemplateSig) {
		return fmt.Errorf("the IMA list of %s has no signatures: set ima.template: ima-sig in the lab's file", n.Name)
	}
	text, err := digestOf(n, *m)
	if err != nil {
		return err
	}
	if text == "" {
		return fmt.Errorf("%s: give the file's digest, which is what is signed", n.Name)
	}
	digest, err := ima.ParseDigest(text)
	if err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	key, err := signingKey(dir, m.Sign)
	if err != nil {
		return err
	}
	m.Digest = text
	m.Signature, err = ima.Sign(key, digest)
	return err
}

// signingKey is one of the keys by which files are signed.
func signingKey(dir state.Dir, name string) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(dir.IMAKeys(), name+".pem")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newSigningKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the key of file signatures: %w", err)
	}
	key, err := keypem.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("the key of file signatures, %s: %w", path, err)
	}
	curve, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key of file signatures, %s, is none on an elliptic curve", path)
	}
	return curve, nil
}

func newSigningKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key of file signatures: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make a key of file signatures: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the keys of file signatures: %w", err)
	}
	return key, atomicfile.Write(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// withKey is the node with the public key whose signatures its runtime policy trusts: the lab's, where its list has signatures.
func withKey(dir state.Dir, n plan.Node) (plan.Node, error) {
	if n.IMA == nil || n.IMA.Template != string(ima.TemplateSig) {
		return n, nil
	}
	key, err := signingKey(dir, control.SignLab)
	if err != nil {
		return n, err
	}
	i := *n.IMA
	if i.Key, err = x509.MarshalPKIXPublicKey(&key.PublicKey); err != nil {
		return n, fmt.Errorf("the key of file signatures: %w", err)
	}
	n.IMA = &i
	return n, nil
}

// signed tells whether the runtime policy trusts the signature of an entry.
func signed(n plan.Node, e ima.Entry) bool {
	if n.IMA == nil || len(n.IMA.Key) == 0 {
		return false
	}
	key, err := x509.ParsePKIXPublicKey(n.IMA.Key)
	if err != nil {
		return false
	}
	curve, ok := key.(*ecdsa.PublicKey)
	return ok && e.SignedBy(curve)
}

// writeVerificationKey writes that key where Keylime's tool can read it.
func writeVerificationKey(dir state.Dir, n plan.Node) (path string, err error) {
	path = filepath.Join(dir.Policies(), "file-signatures.pem")
	return path, atomicfile.Write(path, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: n.IMA.Key}), 0o600)
}
