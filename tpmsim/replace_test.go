package tpmsim

import (
	"testing"
)

// A TPM keeps, over its end and its next start, the certificate that it was given last, and that it has none.
func TestCertificateChangesLast(t *testing.T) {
	forEachBackend(t, func(t *testing.T, b Backend) {
		dir := t.TempDir()
		change := func(want string, change func(*TPM) error) {
			t.Helper()
			tpm, err := Open(t.Context(), Options{Backend: b, Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if err := change(tpm); err != nil {
				t.Fatal(err)
			}
			if err := tpm.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if tpm, err = Open(t.Context(), Options{Backend: b, Dir: dir}); err != nil {
				t.Fatal(err)
			}
			id, err := tpm.Identity(t.Context())
			if err != nil || string(id.Certificate) != want {
				t.Errorf("the certificate is %q (%v), want %q", id.Certificate, err, want)
			}
			if err := tpm.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		change("", func(tpm *TPM) error {
			_, err := tpm.Manufacture(t.Context(), ManufactureOptions{Algorithm: EKECCP256, WithoutCertificate: true})
			return err
		})
		change("second", func(tpm *TPM) error { return tpm.ReplaceEKCertificate(t.Context(), []byte("second")) })
		change("", func(tpm *TPM) error { return tpm.RemoveEKCertificate(t.Context()) })
		change("", func(tpm *TPM) error { return tpm.RemoveEKCertificate(t.Context()) })
	})
}
