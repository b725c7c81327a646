package ekca_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keylab.dev/keylab/ekca"
)

// Endorsement keys are made once: they are what costs time.
var (
	rsaEK    = sync.OnceValue(func() crypto.PublicKey { return newRSA() })
	eccEK    = sync.OnceValue(func() crypto.PublicKey { return &newECC(elliptic.P256()).PublicKey })
	eccEK384 = sync.OnceValue(func() crypto.PublicKey { return &newECC(elliptic.P384()).PublicKey })
)

func newRSA() crypto.PublicKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return &k.PublicKey
}

func newECC(c elliptic.Curve) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

// create makes a CA with quick keys unless cfg says otherwise.
func create(t *testing.T, cfg ekca.Config) *ekca.CA {
	t.Helper()
	if cfg.Algorithm == "" {
		cfg.Algorithm = ekca.ECCP256
	}
	ca, err := ekca.Create(filepath.Join(t.TempDir(), "ca"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func issue(t *testing.T, ca *ekca.CA, r ekca.Request) *x509.Certificate {
	t.Helper()
	if r.Public == nil {
		r.Public = rsaEK()
	}
	cert, err := ca.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func mustBe(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want one that wraps %q", err, want)
	}
}

func TestHierarchy(t *testing.T) {
	for _, algorithm := range ekca.KeyAlgorithms() {
		for levels := range 3 {
			if algorithm == ekca.RSA3072 && levels != 1 {
				continue // slow keys, and the depth is tried with others
			}
			t.Run(string(algorithm)+"/"+string(rune('0'+levels)), func(t *testing.T) {
				ca := create(t, ekca.Config{Algorithm: algorithm, Intermediates: levels, Country: "DE", Organization: "Lab & Söhne"})
				chain := ca.Chain()
				if len(chain) != levels+1 || chain[0] != ca.Issuer() || chain[levels] != ca.Root() {
					t.Fatalf("chain of %d certificates for %d intermediates", len(chain), levels)
				}
				for i, c := range chain {
					if !c.IsCA || c.MaxPathLen != i || c.Subject.Country[0] != "DE" || c.Subject.Organization[0] != "Lab & Söhne" {
						t.Errorf("CA %d: CA=%v, path length %d, subject %v", i, c.IsCA, c.MaxPathLen, c.Subject)
					}
				}
				for _, ek := range []crypto.PublicKey{rsaEK(), eccEK(), eccEK384()} {
					cert := issue(t, ca, ekca.Request{Public: ek})
					if err := ca.Verify(cert, time.Now()); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}

func TestLevelNames(t *testing.T) {
	one := create(t, ekca.Config{Intermediates: 1, IntermediateName: "ACME EK CA"})
	if got := one.Issuer().Subject.CommonName; got != "ACME EK CA" {
		t.Errorf("the only intermediate is called %q", got)
	}
	two := create(t, ekca.Config{Intermediates: 2, IntermediateName: "ACME EK CA", RootName: "ACME Root"})
	if got := two.Issuer().Subject.CommonName; got != "ACME EK CA 2" {
		t.Errorf("the issuing of two intermediates is called %q", got)
	}
	if got := two.Root().Subject.CommonName; got != "ACME Root" {
		t.Errorf("the root is called %q", got)
	}
}

func TestPrivateKeysArePrivate(t *testing.T) {
	ca := create(t, ekca.Config{Intermediates: 1})
	modes := map[string]fs.FileMode{"": 0o700, "keys": 0o700, "keys/root.key": 0o600, "keys/intermediate-1.key": 0o600}
	for name, want := range modes {
		info, err := os.Stat(filepath.Join(ca.Dir(), name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%q has mode %v, want %v", name, info.Mode().Perm(), want)
		}
	}
}

func TestOpenGivesTheSameCA(t *testing.T) {
	ca := create(t, ekca.Config{Intermediates: 1, CRLURL: "http://crl.test/ek.crl", EKValidity: time.Hour})
	cert := issue(t, ca, ekca.Request{Label: "node-1"})
	again, err := ekca.Open(ca.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if !again.Root().Equal(ca.Root()) || !again.Issuer().Equal(ca.Issuer()) {
		t.Error("another chain after Open")
	}
	if err := again.Verify(cert, time.Now()); err != nil {
		t.Error(err)
	}
	second := issue(t, again, ekca.Request{Label: "node-2"})
	if got := second.NotAfter.Sub(second.NotBefore); got != time.Hour {
		t.Errorf("EK validity after Open is %v", got)
	}
	if len(second.CRLDistributionPoints) != 1 || second.CRLDistributionPoints[0] != "http://crl.test/ek.crl" {
		t.Errorf("distribution points after Open are %v", second.CRLDistributionPoints)
	}
	records, err := ca.Issued()
	if err != nil || len(records) != 2 {
		t.Errorf("the first handle sees %d records, error %v", len(records), err)
	}
}

func TestFolderErrors(t *testing.T) {
	ca := create(t, ekca.Config{})
	_, err := ekca.Create(ca.Dir(), ekca.Config{Algorithm: ekca.ECCP256})
	mustBe(t, err, ekca.ErrExists)
	mustBe(t, err, fs.ErrExist)

	_, err = ekca.Open(filepath.Join(t.TempDir(), "nothing"))
	mustBe(t, err, ekca.ErrNotExist)
	mustBe(t, err, fs.ErrNotExist)

	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "letter.txt"), []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = ekca.OpenOrCreate(foreign, ekca.Config{Algorithm: ekca.ECCP256})
	mustBe(t, err, ekca.ErrExists)

	file := filepath.Join(t.TempDir(), "file")
	write(t, file, []byte("in the way"))
	if _, err := ekca.Create(file, ekca.Config{Algorithm: ekca.ECCP256}); err == nil {
		t.Error("a CA was made in the place of a file")
	}
	noStrayFiles(t, filepath.Dir(file))

	broken := create(t, ekca.Config{Intermediates: 1})
	swap, err := os.ReadFile(filepath.Join(broken.Dir(), "keys", "root.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken.Dir(), "keys", "intermediate-1.key"), swap, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ekca.Open(broken.Dir()); err == nil || !strings.Contains(err.Error(), "does not fit") {
		t.Errorf("a CA whose issuing key is the root's opened with error %v", err)
	}
}

func TestOpenOrCreate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "labs", "demo", "ca")
	cfg := ekca.Config{Algorithm: ekca.ECCP256, Intermediates: 1}
	first, made, err := ekca.OpenOrCreate(dir, cfg)
	if err != nil || !made {
		t.Fatalf("made %v, error %v", made, err)
	}
	cfg.EKValidity = time.Minute
	second, made, err := ekca.OpenOrCreate(dir, cfg)
	if err != nil || made {
		t.Fatalf("second time: made %v, error %v", made, err)
	}
	if !second.Root().Equal(first.Root()) {
		t.Error("second time another root")
	}
	if c := issue(t, second, ekca.Request{}); c.NotAfter.Sub(c.NotBefore) != time.Minute {
		t.Errorf("EK validity asked for is not used: %v", c.NotAfter.Sub(c.NotBefore))
	}
	cfg.Intermediates, cfg.RootName = 2, "Other"
	_, _, err = ekca.OpenOrCreate(dir, cfg)
	mustBe(t, err, ekca.ErrConfigDiffers)
	if err == nil || !strings.Contains(err.Error(), "intermediates is 1, not 2") || !strings.Contains(err.Error(), "root name") {
		t.Errorf("the error does not list what differs: %v", err)
	}
}

// Processes that start at once must end up with one CA.
func TestOpenOrCreateTogether(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	var wg sync.WaitGroup
	cas := make([]*ekca.CA, 8)
	created := make([]bool, len(cas))
	for i := range cas {
		wg.Go(func() {
			var err error
			if cas[i], created[i], err = ekca.OpenOrCreate(dir, ekca.Config{Algorithm: ekca.ECCP256}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	count := 0
	for i, ca := range cas {
		if created[i] {
			count++
		}
		if !ca.Root().Equal(cas[0].Root()) {
			t.Error("two roots")
		}
	}
	if count != 1 {
		t.Errorf("%d of %d say that they created the CA", count, len(cas))
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestConfigValidate(t *testing.T) {
	if err := ekca.DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	for want, cfg := range map[string]ekca.Config{
		"algorithm":                            {Algorithm: "dsa"},
		"-1 intermediate levels":               {Intermediates: -1},
		"5 intermediate levels":                {Intermediates: 5},
		"country":                              {Country: "Germany"},
		"longer than 64":                       {Organization: strings.Repeat("x", 65)},
		"control characters":                   {RootName: "a\nb"},
		"already the name of another level":    {Intermediates: 1, RootName: "CA", IntermediateName: "CA"},
		"validity":                             {Validity: -time.Hour},
		"CRL URL":                              {CRLURL: "ek.crl"},
		"AIA URL":                              {AIAURL: "ftp://x/y"},
		`country "de" is not two capital lett`: {Country: "de", AIAURL: "nowhere"}, // and goes on to report the rest
	} {
		err := cfg.Validate()
		mustBe(t, err, ekca.ErrConfig)
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %q not in %q", cfg, want, err)
		}
		if _, err := ekca.Create(filepath.Join(t.TempDir(), "ca"), cfg); !errors.Is(err, ekca.ErrConfig) {
			t.Errorf("Create with %+v: %v", cfg, err)
		}
	}
}
