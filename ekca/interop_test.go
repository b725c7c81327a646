package ekca_test

import (
	"crypto"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-attestation/attest"
	x509ext "github.com/google/go-attestation/x509"

	"keylab.dev/keylab/ekca"
)

// combinations calls f for CAs and EKs of every kind that matters to a foreign verifier.
func combinations(t *testing.T, f func(t *testing.T, ca *ekca.CA, ek crypto.PublicKey)) {
	for _, algorithm := range []ekca.KeyAlgorithm{ekca.RSA2048, ekca.ECCP384} {
		for _, levels := range []int{0, 1, 2} {
			ca := create(t, ekca.Config{Algorithm: algorithm, Intermediates: levels, Country: "DE",
				CRLURL: "http://crl.agents.lab.test/ek.crl", AIAURL: "http://crl.agents.lab.test/ca.der"})
			for name, ek := range map[string]crypto.PublicKey{"RSA": rsaEK(), "ECC": eccEK()} {
				t.Run(fmt.Sprintf("%s EK by %s under %d intermediates", name, algorithm, levels), func(t *testing.T) { f(t, ca, ek) })
			}
		}
	}
}

// run returns the output of a tool, and fails the test with it when the tool fails.
func run(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

func needTool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is needed for this test: %v", name, err)
	}
	return path
}

func TestGoAttestation(t *testing.T) {
	combinations(t, func(t *testing.T, ca *ekca.CA, ek crypto.PublicKey) {
		model := ekca.Model{Manufacturer: "id:494E5443", Model: "fTPM", Version: "id:00020000"}
		cert := issue(t, ca, ekca.Request{Public: ek, TPM: model, Revision: 138})
		if _, err := attest.ParseEKCertificate(cert.Raw); err != nil {
			t.Error(err)
		}
		got, err := x509ext.ParseEKCertificate(cert.Raw) // checks section 3.2 of the profile, version 2.6
		if err != nil {
			t.Fatal(err)
		}
		if (ekca.Model{Manufacturer: got.TpmManufacturer, Model: got.TpmModel, Version: got.TpmVersion}) != model {
			t.Errorf("model %q %q %q", got.TpmManufacturer, got.TpmModel, got.TpmVersion)
		}
		if got.TpmSpecification != (x509ext.TpmSpecification{Family: "2.0", Level: 0, Revision: 138}) {
			t.Errorf("specification %+v", got.TpmSpecification)
		}
		if !got.HasEkcExtendedKeyUsage || len(got.UnhandledCriticalExtensions) > 0 {
			t.Errorf("EK usage %v, unhandled critical extensions %v", got.HasEkcExtendedKeyUsage, got.UnhandledCriticalExtensions)
		}
	})
}

// libtpms and most discrete TPMs hold NV indices of at most 2048 octets, older ones of 1600.
func TestCertificateFitsIntoNV(t *testing.T) {
	ca := create(t, ekca.Config{Algorithm: ekca.RSA3072, Intermediates: 1, Country: "DE",
		Organization: strings.Repeat("o", 64), IntermediateName: strings.Repeat("n", 64),
		CRLURL: "http://" + strings.Repeat("c", 100), AIAURL: "http://" + strings.Repeat("a", 100)})
	cert := issue(t, ca, ekca.Request{TPM: ekca.Model{Manufacturer: "id:49424D00", Model: strings.Repeat("m", 64), Version: "id:0123456789abcdef"}})
	if len(cert.Raw) > 1600 {
		t.Errorf("the certificate has %d octets", len(cert.Raw))
	}
}

func TestOpenSSL(t *testing.T) {
	openssl := needTool(t, "openssl")
	combinations(t, func(t *testing.T, ca *ekca.CA, ek crypto.PublicKey) {
		dir := t.TempDir()
		path := func(name string) string { return filepath.Join(dir, name) }
		cert := issue(t, ca, ekca.Request{Public: ek})
		write(t, path("ek.pem"), ekca.PEM(cert))
		write(t, path("root.pem"), ekca.PEM(ca.Root()))
		verify := []string{openssl, "verify", "-x509_strict", "-purpose", "any", "-CAfile", path("root.pem")}
		if chain := ca.Chain(); len(chain) > 1 {
			write(t, path("chain.pem"), ekca.PEM(chain[:len(chain)-1]...))
			verify = append(verify, "-untrusted", path("chain.pem"))
		}
		if out := run(t, append(verify, path("ek.pem"))...); !strings.Contains(out, "ek.pem: OK") {
			t.Error(out)
		}

		text := run(t, openssl, "x509", "-in", path("ek.pem"), "-noout", "-text")
		for _, want := range []string{
			"X509v3 Subject Alternative Name: critical",
			"DirName:/2.23.133.2.1=id:49424D00/2.23.133.2.2=keylab simulated TPM/2.23.133.2.3=id:20191023",
			"2.23.133.8.1",
			"X509v3 Basic Constraints: critical\n                CA:FALSE",
			"X509v3 Key Usage: critical",
			"CN = " + ca.Issuer().Subject.CommonName,
			"URI:http://crl.agents.lab.test/ek.crl",
			"CA Issuers - URI:http://crl.agents.lab.test/ca.der",
			"X509v3 Subject Directory Attributes",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("openssl does not print %q:\n%s", want, text)
			}
		}

		// A revoked certificate is refused by who checks the CRL.
		if err := ca.Revoke(cert.SerialNumber, 1); err != nil {
			t.Fatal(err)
		}
		crl, err := ca.CRL()
		if err != nil {
			t.Fatal(err)
		}
		write(t, path("crl.der"), crl)
		run(t, openssl, "crl", "-inform", "DER", "-in", path("crl.der"), "-out", path("crl.pem"))
		out, err := exec.Command(verify[0], append(verify[1:], "-crl_check", "-CRLfile", path("crl.pem"), path("ek.pem"))...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "certificate revoked") {
			t.Errorf("with the CRL: %v\n%s", err, out)
		}
	})
}

// pythonCheck does with Python's cryptography what Keylime does: strict parsing (Keylime's fallback to pyasn1 must never be needed), then
// the check of issuer and signature. It reads everything that the certificate says, for parsing is lazy, and treats warnings as errors.
const pythonCheck = `
import sys, warnings
warnings.simplefilter("error")
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtensionOID, ObjectIdentifier

with open(sys.argv[1], "rb") as f:
    cert = x509.load_der_x509_certificate(f.read())
with open(sys.argv[2], "rb") as f:
    issuer = x509.load_pem_x509_certificate(f.read())
with open(sys.argv[3], "rb") as f:
    crl = x509.load_der_x509_crl(f.read())
for c in (cert, issuer):
    assert c.version == x509.Version.v3
    c.subject, c.serial_number, c.public_key(), c.signature_hash_algorithm
    [e.value for e in c.extensions]
assert cert.issuer == issuer.subject
key = issuer.public_key()
if isinstance(key, rsa.RSAPublicKey):
    key.verify(cert.signature, cert.tbs_certificate_bytes, padding.PKCS1v15(), cert.signature_hash_algorithm)
else:
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(cert.signature, cert.tbs_certificate_bytes, ec.ECDSA(cert.signature_hash_algorithm))
names = cert.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value.get_values_for_type(x509.DirectoryName)
for a in names[0]:
    print(a.oid.dotted_string, a.value)
print("usage", *[u.dotted_string for u in cert.extensions.get_extension_for_oid(ExtensionOID.EXTENDED_KEY_USAGE).value])
assert crl.is_signature_valid(key)
print("revoked", crl.get_revoked_certificate_by_serial_number(cert.serial_number) is not None)
`

func TestPythonCryptography(t *testing.T) {
	python := needTool(t, "python3")
	if candidate := os.Getenv("KEYLAB_TEST_PYTHON"); candidate != "" {
		python = candidate // e.g. of a virtual environment with a newer cryptography
	}
	if out, err := exec.Command(python, "-c", "import cryptography").CombinedOutput(); err != nil {
		t.Skipf("%s has no module cryptography: %s", python, out)
	}
	combinations(t, func(t *testing.T, ca *ekca.CA, ek crypto.PublicKey) {
		dir := t.TempDir()
		cert := issue(t, ca, ekca.Request{Public: ek})
		if err := ca.Revoke(cert.SerialNumber, 4); err != nil {
			t.Fatal(err)
		}
		crl, err := ca.CRL()
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "ek.der"), cert.Raw)
		write(t, filepath.Join(dir, "issuer.pem"), ekca.PEM(ca.Issuer()))
		write(t, filepath.Join(dir, "crl.der"), crl)
		write(t, filepath.Join(dir, "check.py"), []byte(pythonCheck))
		got := run(t, python, filepath.Join(dir, "check.py"), filepath.Join(dir, "ek.der"), filepath.Join(dir, "issuer.pem"), filepath.Join(dir, "crl.der"))
		want := "2.23.133.2.1 id:49424D00\n2.23.133.2.2 keylab simulated TPM\n2.23.133.2.3 id:20191023\nusage 2.23.133.8.1\nrevoked True\n"
		if got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
}

func TestFingerprint(t *testing.T) {
	openssl := needTool(t, "openssl")
	ca := create(t, ekca.Config{})
	path := filepath.Join(t.TempDir(), "root.pem")
	write(t, path, ekca.PEM(ca.Root()))
	out := run(t, openssl, "x509", "-in", path, "-noout", "-fingerprint", "-sha256")
	_, value, _ := strings.Cut(strings.TrimSpace(out), "=")
	if got := ekca.Fingerprint(ca.Root()); !strings.EqualFold(strings.ReplaceAll(value, ":", ""), got) {
		t.Errorf("%s, but openssl says %s", got, value)
	}
	if raw, err := hex.DecodeString(ekca.FingerprintSPKI(ca.Root())); err != nil || len(raw) != 32 {
		t.Errorf("SPKI fingerprint of %d octets, error %v", len(raw), err)
	}
}

func BenchmarkCreate(b *testing.B) {
	for _, algorithm := range ekca.KeyAlgorithms() {
		b.Run(string(algorithm), func(b *testing.B) {
			dir := b.TempDir()
			for i := 0; b.Loop(); i++ {
				if _, err := ekca.Create(filepath.Join(dir, fmt.Sprint(i)), ekca.Config{Algorithm: algorithm, Intermediates: 1}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkIssue(b *testing.B) {
	for _, algorithm := range ekca.KeyAlgorithms() {
		b.Run(string(algorithm), func(b *testing.B) {
			ca, err := ekca.Create(filepath.Join(b.TempDir(), "ca"), ekca.Config{Algorithm: algorithm, Intermediates: 1})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				cert, err := ca.Issue(ekca.Request{Public: eccEK()})
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(cert.Raw)), "octets")
			}
		})
	}
}
