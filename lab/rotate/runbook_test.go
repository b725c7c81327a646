package rotate_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/lab/rotate"
)

// What the runbook has the TPM maker do with OpenSSL makes a CA and EK certificates that Keylime's rule accepts, whatever the algorithms.
func TestRunbookOfTheTPMMaker(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("this test needs openssl")
	}
	for _, algorithm := range ekca.KeyAlgorithms() {
		t.Run(string(algorithm), func(t *testing.T) {
			f := newFake(t, "rsa", "ecc", "rsa-2")
			for i := range f.plan.Nodes {
				if f.plan.Nodes[i].Name == "ecc" {
					f.plan.Nodes[i].TPM.EKAlgorithm = "ecc-p256"
				}
			}
			dir := t.TempDir()
			for _, n := range f.plan.Nodes {
				writeEK(t, filepath.Join(dir, n.Name+"-ek.pem"), n.TPM.EKAlgorithm == "ecc-p256")
			}
			r := run(t, f, rotate.Options{DryRun: true, Algorithm: string(algorithm)})
			var script strings.Builder
			for _, c := range r.Commands {
				for _, line := range c.Run {
					// What is done on the node needs its TPM.
					if strings.HasPrefix(c.Where, "TPM maker") && !strings.HasPrefix(line, "tpm2_") {
						script.WriteString(line + "\n")
					}
				}
			}
			cmd := exec.Command("sh", "-euc", script.String())
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s\n%s", err, script.String(), out)
			}
			store := filepath.Join(dir, "store")
			if err := os.Mkdir(store, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(dir, "ca-2-issuing.pem"), filepath.Join(store, "ca-2-issuing.pem")); err != nil {
				t.Fatal(err)
			}
			for _, n := range f.plan.Nodes {
				der, err := os.ReadFile(filepath.Join(dir, n.Name+"-ek.der"))
				if err != nil {
					t.Fatal(err)
				}
				cert, err := x509.ParseCertificate(der)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := ekca.CheckStore(store, cert); err != nil {
					t.Error(err)
				}
				if model, err := ekca.ParseModel(cert); err != nil || model.Model != n.TPM.Model || model.Manufacturer != n.TPM.Manufacturer {
					t.Errorf("the certificate of %s is for a TPM %+v: %v", n.Name, model, err)
				}
			}
		})
	}
}

// writeEK writes what tpm2_readpublic would.
func writeEK(t *testing.T, file string, ecc bool) {
	t.Helper()
	var public any
	if ecc {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		public = key.Public()
	} else {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		public = key.Public()
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
