package ekca_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/ekca"
)

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestExportedStoreIsTrusted(t *testing.T) {
	for algorithm, depths := range map[ekca.KeyAlgorithm][]int{ekca.RSA2048: {1}, ekca.RSA3072: {0}, ekca.ECCP256: {0, 1, 2}, ekca.ECCP384: {1}} {
		for _, levels := range depths {
			ca := create(t, ekca.Config{Algorithm: algorithm, Intermediates: levels})
			store := filepath.Join(t.TempDir(), "store")
			files, err := ca.ExportStore(store)
			if err != nil || len(files) != levels+1 {
				t.Fatalf("%d files, error %v", len(files), err)
			}
			file, err := ekca.CheckStore(store, issue(t, ca, ekca.Request{Public: eccEK()}))
			if err != nil || file != files[0] {
				t.Errorf("%s, %d intermediates: trusted by %q, want %q, error %v", algorithm, levels, file, files[0], err)
			}
		}
	}
}

func TestCheckStore(t *testing.T) {
	ca := create(t, ekca.Config{Intermediates: 1})
	twin := create(t, ekca.Config{Intermediates: 1}) // same names, other keys
	cert := issue(t, ca, ekca.Request{})
	expired := issue(t, ca, ekca.Request{NotAfter: time.Now().Add(-time.Hour)})
	revoked := issue(t, ca, ekca.Request{})
	if err := ca.Revoke(revoked.SerialNumber, 1); err != nil {
		t.Fatal(err)
	}
	issuer, root := ekca.PEM(ca.Issuer()), ekca.PEM(ca.Root())
	key := []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
	for name, c := range map[string]struct {
		files   map[string][]byte
		trusted string // file name
	}{
		"issuing CA alone":             {map[string][]byte{"i.pem": issuer}, "i.pem"},
		"issuing CA and twin":          {map[string][]byte{"a.pem": ekca.PEM(twin.Issuer()), "b.pem": issuer}, "b.pem"},
		"issuing CA first in its file": {map[string][]byte{"c.pem": append(slices.Clone(issuer), root...)}, "c.pem"},
		"a key before it":              {map[string][]byte{"k.pem": append(slices.Clone(key), issuer...)}, "k.pem"},
		"beside a file of text":        {map[string][]byte{"a.pem": []byte("hello"), "i.pem": issuer}, "i.pem"},
		"root alone":                   {map[string][]byte{"r.pem": root}, ""},
		"issuing CA second":            {map[string][]byte{"c.pem": append(slices.Clone(root), issuer...)}, ""},
		"another suffix":               {map[string][]byte{"i.crt": issuer}, ""},
		"hidden":                       {map[string][]byte{".i.pem": issuer}, ""},
		"twin alone":                   {map[string][]byte{"a.pem": ekca.PEM(twin.Issuer())}, ""},
		"spoilt by a binary file":      {map[string][]byte{"i.pem": issuer, "z.pem": {0xff, 0xfe}}, ""},
		"empty":                        {nil, ""},
	} {
		store := t.TempDir()
		for file, data := range c.files {
			write(t, filepath.Join(store, file), data)
		}
		file, err := ekca.CheckStore(store, cert)
		if c.trusted == "" {
			if err == nil {
				t.Errorf("%s: trusted by %s", name, file)
			} else if name != "spoilt by a binary file" {
				mustBe(t, err, ekca.ErrNotInStore)
			}
			continue
		}
		if err != nil || filepath.Base(file) != c.trusted {
			t.Errorf("%s: trusted by %q, error %v", name, file, err)
		}
		// Keylime looks at neither dates nor revocation.
		if _, err := ekca.CheckStore(store, expired); err != nil {
			t.Errorf("%s: expired: %v", name, err)
		}
		if _, err := ekca.CheckStore(store, revoked); err != nil {
			t.Errorf("%s: revoked: %v", name, err)
		}
	}
	_, err := ekca.CheckStore(filepath.Join(t.TempDir(), "absent"), cert)
	mustBe(t, err, ekca.ErrNotInStore)
}

// The name decides by its values, as Python's cryptography compares them, and the key alone does not.
func TestCheckStoreComparesNames(t *testing.T) {
	ca := create(t, ekca.Config{})
	cert := issue(t, ca, ekca.Request{})
	utf8Name, err := asn1.Marshal([]relativeNameSET{
		{{asn1.ObjectIdentifier{2, 5, 4, 10}, ca.Root().Subject.Organization[0]}},
		{{asn1.ObjectIdentifier{2, 5, 4, 3}, ca.Root().Subject.CommonName}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(utf8Name, ca.Root().RawSubject) {
		t.Fatal("the CA's name is UTF8String already: this test shows nothing")
	}
	key := issuingKey(t, ca).(crypto.Signer)
	for name, c := range map[string]struct {
		template x509.Certificate
		trusted  bool
	}{
		"other string type": {x509.Certificate{RawSubject: utf8Name}, true},
		"other name":        {x509.Certificate{Subject: pkix.Name{Organization: []string{"keylab"}, CommonName: "keylab Root EK CB"}}, false},
		"shorter name":      {x509.Certificate{Subject: pkix.Name{Organization: []string{"keylab"}}}, false},
	} {
		c.template.SerialNumber, c.template.NotAfter = big.NewInt(1), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, &c.template, &c.template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		store := t.TempDir()
		write(t, filepath.Join(store, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		if _, err := ekca.CheckStore(store, cert); (err == nil) != c.trusted {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

type relativeNameSET []struct {
	Type  asn1.ObjectIdentifier
	Value string `asn1:"utf8"`
}

// CAs of the same names, as after a rotation that kept them, do not overwrite each other's files.
func TestStoreHoldsNamesakes(t *testing.T) {
	store := t.TempDir()
	a, b := create(t, ekca.Config{Intermediates: 1}), create(t, ekca.Config{Intermediates: 1})
	for _, ca := range []*ekca.CA{a, b} {
		if _, err := ca.ExportStore(store); err != nil {
			t.Fatal(err)
		}
	}
	for _, ca := range []*ekca.CA{a, b} {
		if _, err := ekca.CheckStore(store, issue(t, ca, ekca.Request{})); err != nil {
			t.Error(err)
		}
	}
}

// A rotation: two CAs in one store, the old one leaves, and a CA made anew in the same folder replaces its own traces only.
func TestStoreRotation(t *testing.T) {
	store := t.TempDir()
	write(t, filepath.Join(store, "vendor.pem"), []byte("the user's own"))
	dir := filepath.Join(t.TempDir(), "ca")
	cfg := ekca.Config{Algorithm: ekca.ECCP256, Intermediates: 2}
	old, err := ekca.Create(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	next := create(t, ekca.Config{Intermediates: 1, RootName: "Next root", IntermediateName: "Next CA"})
	oldEK, nextEK := issue(t, old, ekca.Request{}), issue(t, next, ekca.Request{})
	for _, ca := range []*ekca.CA{old, next, old} { // exporting twice is harmless
		if _, err := ca.ExportStore(store); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(oldTrusted, nextTrusted bool, files int) {
		t.Helper()
		if _, err := ekca.CheckStore(store, oldEK); (err == nil) != oldTrusted {
			t.Errorf("old CA: %v", err)
		}
		if _, err := ekca.CheckStore(store, nextEK); (err == nil) != nextTrusted {
			t.Errorf("next CA: %v", err)
		}
		if got, err := filepath.Glob(filepath.Join(store, "*.pem")); err != nil || len(got) != files {
			t.Errorf("store holds %v, want %d files", got, files)
		}
	}
	expect(true, true, 3+2+1)

	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	cfg.Intermediates = 1
	renewed, err := ekca.Create(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := renewed.ExportStore(store); err != nil {
		t.Fatal(err)
	}
	expect(false, true, 2+2+1)

	for range 2 {
		if err := next.WithdrawStore(store); err != nil {
			t.Fatal(err)
		}
	}
	expect(false, false, 2+1)
	if err := renewed.WithdrawStore(store); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(store)
	if err != nil || len(left) != 1 || left[0].Name() != "vendor.pem" {
		t.Errorf("after both left, the store holds %v", left)
	}
}

func TestStoreListLeadsNowhereElse(t *testing.T) {
	ca := create(t, ekca.Config{})
	outside := t.TempDir()
	store := filepath.Join(outside, "store")
	if _, err := ca.ExportStore(store); err != nil {
		t.Fatal(err)
	}
	precious := filepath.Join(outside, "precious.pem")
	write(t, precious, []byte("x"))
	lists, err := filepath.Glob(filepath.Join(store, ".ekca-*"))
	if err != nil || len(lists) != 1 {
		t.Fatalf("lists %v, error %v", lists, err)
	}
	write(t, lists[0], []byte(`["../precious.pem"]`))
	if err := ca.WithdrawStore(store); err == nil {
		t.Error("a list with a path in it was followed")
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

func TestExportPublic(t *testing.T) {
	ca := create(t, ekca.Config{Intermediates: 1})
	cert := issue(t, ca, ekca.Request{Label: "node-1"})
	gone := issue(t, ca, ekca.Request{Label: "node-2"})
	if err := ca.Revoke(gone.SerialNumber, 4); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "public")
	for range 2 {
		if err := ca.ExportPublic(dir); err != nil {
			t.Fatal(err)
		}
	}
	var files []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		files = append(files, name)
		data, readErr := os.ReadFile(path)
		if readErr != nil || strings.Contains(string(data), "PRIVATE") {
			t.Errorf("%s: holds a private key, or error %v", name, readErr)
		}
		return err
	})
	want := []string{"chain.pem", "crl.der", "index.json", "intermediate-1.pem", "root.pem",
		"issued/" + cert.SerialNumber.Text(16) + ".pem", "issued/" + gone.SerialNumber.Text(16) + ".pem"}
	slices.Sort(want)
	slices.Sort(files)
	if err != nil || !slices.Equal(files, want) {
		t.Errorf("exported %v, want %v, error %v", files, want, err)
	}
	chain, err := os.ReadFile(filepath.Join(dir, "chain.pem"))
	if err != nil || string(chain) != string(ekca.PEM(ca.Issuer(), ca.Root())) {
		t.Errorf("chain.pem is not issuing CA, then root; error %v", err)
	}
	var index []struct{ Serial, Label, Status string }
	data, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err == nil {
		err = json.Unmarshal(data, &index)
	}
	if err != nil || len(index) != 2 || index[0].Label != "node-1" || index[1].Status != "revoked" || index[0].Serial != cert.SerialNumber.Text(16) {
		t.Errorf("index %+v, error %v", index, err)
	}
	if err := ca.ExportPublic(ca.Dir()); err == nil {
		t.Error("exported into the CA's own folder")
	}
}
