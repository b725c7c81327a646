package tpmsim

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// freshState returns the state file that swtpm makes for a TPM that was never used.
func freshState(t testing.TB, seed []byte) []byte {
	t.Helper()
	o := Options{Backend: Swtpm(), Dir: t.TempDir(), Seed: seed}
	tpm := openTPM(t, o)
	if err := tpm.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(o.Dir, stateName, swtpmStateFile))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func secretsOf(t testing.TB, seed []byte) [6][]byte {
	t.Helper()
	s, err := findSecrets(freshState(t, seed))
	if err != nil {
		t.Fatal(err)
	}
	return s.all()
}

func TestSecretsOfTwoTPMsDiffer(t *testing.T) {
	one, other := secretsOf(t, nil), secretsOf(t, nil)
	seen := map[string]string{}
	for i, name := range secretLabels {
		for _, secret := range [][]byte{one[i], other[i]} {
			if before, ok := seen[string(secret)]; ok {
				t.Errorf("%s equals %s", name, before)
			}
			seen[string(secret)] = name
		}
	}
}

func TestSeedDeterminesAllSecrets(t *testing.T) {
	seed := []byte("0123456789abcdef")
	one, same, other := secretsOf(t, seed), secretsOf(t, seed), secretsOf(t, []byte("fedcba9876543210"))
	for i, name := range secretLabels {
		if !bytes.Equal(one[i], same[i]) {
			t.Errorf("%s differs between TPMs of the same seed", name)
		}
		if bytes.Equal(one[i], other[i]) {
			t.Errorf("%s is the same with another seed", name)
		}
		for j := range i {
			if bytes.Equal(one[i], one[j]) {
				t.Errorf("%s equals %s", name, secretLabels[j])
			}
		}
	}
}

// A file that is not understood to the last field must be refused, not patched.
func TestUnknownStateFormatIsRefused(t *testing.T) {
	good := freshState(t, nil)
	if _, err := findSecrets(good); err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if _, err := findSecrets(good[:n]); !errors.Is(err, errStateFormat) {
			t.Fatalf("cut after %d of %d bytes: %v", n, len(good), err)
		}
	}
	for _, tc := range []struct {
		name string
		at   int
	}{
		{"swtpm header version", 0}, {"swtpm header size", 3}, {"encrypted", 5}, {"total size", 9}, {"tag", 11},
		{"state version", 17}, {"state magic", 18},
	} {
		bad := bytes.Clone(good)
		bad[tc.at] ^= 0x16
		if _, err := findSecrets(bad); !errors.Is(err, errStateFormat) {
			t.Errorf("%s changed: %v", tc.name, err)
		}
	}
}

func FuzzFindSecrets(f *testing.F) {
	f.Add(freshState(f, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := findSecrets(data)
		if err != nil {
			if !errors.Is(err, errStateFormat) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		for i, secret := range s.all() {
			if len(secret) != secretSize {
				t.Errorf("%s has %d bytes", secretLabels[i], len(secret))
			}
		}
	})
}
