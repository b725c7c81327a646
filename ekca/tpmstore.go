package ekca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"keylab.dev/keylab/internal/atomicfile"
)

// ExportStore writes the CA certificates into dir, Keylime's tpm_cert_store, which is made if absent: one PEM file per certificate, for
// Keylime reads only the first certificate of each *.pem and does not build chains. It returns the files, the issuing CA's first.
//
// Files that an earlier export of the CA in this same folder left, and that are no longer right, are removed; files of other CAs and of
// the user stay. So several CAs can share a store, as real ones do.
func (ca *CA) ExportStore(dir string) ([]string, error) {
	return ca.ExportStoreOnly(dir, ca.chain...)
}

// ExportStoreOnly is ExportStore for some of the CA's certificates, or for others that have its keys, such as those of CrossSign: what is in dir of
// this CA afterwards is these and no others. Without any it is WithdrawStore.
func (ca *CA) ExportStoreOnly(dir string, certs ...*x509.Certificate) ([]string, error) {
	var names []string
	content := map[string][]byte{}
	for _, cert := range certs {
		// The fingerprint keeps CAs with equal names apart.
		name := fmt.Sprintf("%s-%s.pem", fileStem(cert.Subject.CommonName), Fingerprint(cert)[:16])
		names = append(names, name)
		content[name] = PEM(cert)
	}
	paths, err := ca.updateStore(dir, names, content)
	if err != nil {
		return nil, fmt.Errorf("export EK CA %s to the certificate store %s: %w", ca.dir, dir, err)
	}
	return paths, nil
}

// WithdrawStore removes from dir what ExportStore put there: Keylime stops trusting this CA for agents added from now on. Nothing
// happens when there is nothing of this CA.
func (ca *CA) WithdrawStore(dir string) error {
	if _, err := ca.updateStore(dir, nil, nil); err != nil {
		return fmt.Errorf("withdraw EK CA %s from the certificate store %s: %w", ca.dir, dir, err)
	}
	return nil
}

// updateStore brings the files of this CA in dir to exactly names. A hidden list, which Keylime's pattern *.pem passes over, remembers
// them; it is widened before files are written and narrowed after others are removed, so that an interruption leaves no file unlisted.
func (ca *CA) updateStore(dir string, names []string, content map[string][]byte) ([]string, error) {
	if len(names) > 0 {
		if err := os.MkdirAll(dir, publicDirMode); err != nil {
			return nil, err
		}
	}
	owner := sha256.Sum256([]byte(ca.dir))
	listPath := filepath.Join(dir, ".ekca-"+hex.EncodeToString(owner[:8])+".json")
	old, err := readStoreList(listPath)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 && old == nil {
		return nil, nil
	}
	if err := writeStoreList(listPath, append(slices.Clone(names), old...)); err != nil {
		return nil, err
	}
	var paths []string
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := atomicfile.Write(path, content[name], publicFileMode); err != nil {
			return nil, err
		}
		paths = append(paths, path)
	}
	for _, name := range old {
		if slices.Contains(names, name) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if len(names) == 0 {
		return nil, os.Remove(listPath)
	}
	return paths, writeStoreList(listPath, names)
}

// readStoreList gives the names in a list written by writeStoreList; none when there is no list.
func readStoreList(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	var names []string
	if err := json.Unmarshal(data, &names); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, name := range names {
		// The list decides what gets removed: it must not lead out of the store.
		if filepath.Base(name) != name || filepath.Ext(name) != ".pem" {
			return nil, fmt.Errorf("%s: %q is not a PEM file of this folder; remove the list and the files it names by hand", path, name)
		}
	}
	return names, nil
}

func writeStoreList(path string, names []string) error {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	data, err := json.Marshal(names)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(data, '\n'), publicFileMode)
}

// fileStem makes a file name of a common name: lower-case letters, digits and single dashes.
func fileStem(name string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(name) {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
	}
	if s := strings.Trim(b.String(), "-"); s != "" {
		return s
	}
	return "ca"
}

// CheckStore applies the rule by which Keylime's tenant (7.14, cert_utils.verify_cert) trusts an EK certificate, and names the file that
// vouches for it: some *.pem in dir whose first certificate has the subject that cert names as issuer, and whose key verifies cert's
// signature (RSA PKCS #1 v1.5 or ECDSA). Nothing else is looked at: no second level, no dates, no CA flag, no revocation.
//
// Without such a file the error wraps ErrNotInStore and lists what the store holds. As in Keylime, one unreadable *.pem spoils the
// whole store, while one without a certificate is passed over.
func CheckStore(dir string, cert *x509.Certificate) (string, error) {
	if cert == nil {
		return "", fmt.Errorf("check EK certificate against the store %s: no certificate given", dir)
	}
	files, content, err := readStore(dir)
	if err != nil {
		return "", fmt.Errorf("check EK certificate against the store: %w", err)
	}
	var seen []string
	for _, file := range files {
		candidate, err := firstCertificate(content[file])
		switch {
		case err != nil:
			seen = append(seen, fmt.Sprintf("%s: %v", file, err))
		case !sameName(cert.RawIssuer, candidate.RawSubject):
			seen = append(seen, fmt.Sprintf("%s: is %q", file, candidate.Subject))
		case !signedBy(cert, candidate.PublicKey):
			seen = append(seen, fmt.Sprintf("%s: right name, but its key did not sign", file))
		default:
			return filepath.Join(dir, file), nil
		}
	}
	if seen == nil {
		seen = []string{"no *.pem file"}
	}
	return "", fmt.Errorf("check EK certificate %s against the store %s: %w: the issuer is %q, the store has: %s; the issuing CA's own certificate must be there, a root above it does not count",
		serialName(cert.SerialNumber), dir, ErrNotInStore, cert.Issuer, strings.Join(seen, "; "))
}

// readStore gives the files that Keylime would read, by name and in their order, with their content. A folder that is not there wraps ErrNotInStore.
func readStore(dir string) (files []string, content map[string][]byte, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w: %w", ErrNotInStore, err)
	} else if err != nil {
		return nil, nil, err
	}
	content = map[string][]byte{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || !strings.HasSuffix(e.Name(), ".pem") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err == nil && !utf8.Valid(data) {
			err = fmt.Errorf("%s is not UTF-8 text", e.Name())
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s cannot be loaded by Keylime: %w; remove that file", dir, err)
		}
		files = append(files, e.Name())
		content[e.Name()] = data
	}
	return files, content, nil
}

// InStore names the files of a tpm_cert_store by which something that one of the CA's keys signs would be trusted, whoever put them there: those whose
// first certificate has the key of one of the CA's levels. None when there is no such folder.
func (ca *CA) InStore(dir string) ([]string, error) {
	files, content, err := readStore(dir)
	if errors.Is(err, ErrNotInStore) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("look for EK CA %s in the certificate store: %w", ca.dir, err)
	}
	return slices.DeleteFunc(files, func(file string) bool {
		cert, err := firstCertificate(content[file])
		return err != nil || !slices.ContainsFunc(ca.chain, func(own *x509.Certificate) bool {
			return bytes.Equal(own.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo)
		})
	}), nil
}

// firstCertificate finds the first PEM block that is a certificate, as Python's cryptography does.
func firstCertificate(data []byte) (*x509.Certificate, error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" || block.Type == "X509 CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
	return nil, errors.New("no PEM certificate")
}

// sameName compares two DER names as Python's cryptography does: RDN by RDN, by attribute types and values, not by string types.
func sameName(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var an, bn pkix.RDNSequence
	if _, err := asn1.Unmarshal(a, &an); err != nil {
		return false
	}
	if _, err := asn1.Unmarshal(b, &bn); err != nil {
		return false
	}
	return slices.EqualFunc(an, bn, func(x, y pkix.RelativeDistinguishedNameSET) bool {
		return len(x) == len(y) && !slices.ContainsFunc(x, func(xa pkix.AttributeTypeAndValue) bool {
			return !slices.ContainsFunc(y, func(ya pkix.AttributeTypeAndValue) bool {
				return xa.Type.Equal(ya.Type) && reflect.DeepEqual(xa.Value, ya.Value)
			})
		})
	})
}

// signedBy verifies the signature alone. x509's own check also wants a CA flag and refuses SHA-1, which Keylime does not.
func signedBy(cert *x509.Certificate, public crypto.PublicKey) bool {
	var hash crypto.Hash
	switch cert.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1:
		hash = crypto.SHA1
	case x509.SHA256WithRSA, x509.ECDSAWithSHA256:
		hash = crypto.SHA256
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384:
		hash = crypto.SHA384
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512:
		hash = crypto.SHA512
	default:
		return false // RSA-PSS among them
	}
	h := hash.New()
	h.Write(cert.RawTBSCertificate)
	digest := h.Sum(nil)
	switch key := public.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(key, hash, digest, cert.Signature) == nil
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(key, digest, cert.Signature)
	}
	return false
}
