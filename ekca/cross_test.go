package ekca_test

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"keylab.dev/keylab/ekca"
)

// Who trusts the old root alone accepts, by the cross certificate, what the new CA issues; Keylime, which builds no chains, accepts it for the cross
// certificate's own sake.
func TestCrossSign(t *testing.T) {
	before := create(t, ekca.Config{Intermediates: 1})
	after := create(t, ekca.Config{Algorithm: ekca.ECCP384, Intermediates: 1, RootName: "after root", IntermediateName: "after"})
	cross, err := before.CrossSign(after)
	if err != nil {
		t.Fatal(err)
	}
	if !cross.IsCA || cross.MaxPathLen != 0 || !cross.MaxPathLenZero {
		t.Errorf("the cross certificate lets its subject certify other CAs: path length %d", cross.MaxPathLen)
	}
	cert := issue(t, after, ekca.Request{Public: rsaEK()})
	leaf := *cert
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(leaf.UnhandledCriticalExtensions), func(id asn1.ObjectIdentifier) bool {
		return id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17})
	})
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	options.Roots.AddCert(before.Root())
	if _, err := leaf.Verify(options); err == nil {
		t.Error("the old root alone vouches for it")
	}
	options.Intermediates.AddCert(cross)
	if chains, err := leaf.Verify(options); err != nil || len(chains[0]) != 3 {
		t.Errorf("by the cross certificate: %v, %v", chains, err)
	}

	store := filepath.Join(t.TempDir(), "store")
	if files, err := after.ExportStoreOnly(store, cross); err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if _, err := ekca.CheckStore(store, cert); err != nil {
		t.Error(err)
	}
	if err := after.Verify(cert, cert.NotBefore); err != nil {
		t.Error(err)
	}
	root := create(t, ekca.Config{Intermediates: 0})
	if _, err := root.CrossSign(after); !errors.Is(err, ekca.ErrPathLength) {
		t.Errorf("cross-signed by a CA whose root issues: %v", err)
	}
}

// What a store trusts of a CA is found by the key, under whatever name somebody put it there.
func TestInStore(t *testing.T) {
	ca, other := create(t, ekca.Config{Intermediates: 1}), create(t, ekca.Config{Intermediates: 1})
	store := filepath.Join(t.TempDir(), "store")
	want := func(what string, files ...string) {
		t.Helper()
		if got, err := ca.InStore(store); err != nil || !slices.Equal(got, files) {
			t.Errorf("%s: %v, %v; want %v", what, got, err, files)
		}
	}
	want("no store")
	if _, err := other.ExportStore(store); err != nil {
		t.Fatal(err)
	}
	want("another CA's")
	paths, err := ca.ExportStoreOnly(store, ca.Root())
	if err != nil || len(paths) != 1 {
		t.Fatal(paths, err)
	}
	want("the root", filepath.Base(paths[0]))
	if err := ca.WithdrawStore(store); err != nil {
		t.Fatal(err)
	}
	want("withdrawn")
	cross, err := other.CrossSign(ca)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(store, "by-hand.pem"), ekca.PEM(cross))
	want("a cross certificate, put there by hand", "by-hand.pem")
}
