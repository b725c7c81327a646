package authority_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/plan"
	"keylab.dev/keylab/lab/state"
)

func newSet(t *testing.T, p plan.EKCA) (*authority.Set, state.Dir) {
	t.Helper()
	dir := state.Dir{Lab: "test", Path: t.TempDir()}
	s := authority.Open(dir, p)
	if err := s.Prepare(); err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func small() plan.EKCA {
	return plan.EKCA{Algorithm: "ecc-p256", Organization: "lab", RootName: strings.Repeat("r", 64), IntermediateName: "Issuing CA", Intermediates: 1}
}

func issue(t *testing.T, s *authority.Set, ca string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := get(t, s, ca).Issue(ekca.Request{Public: key.Public(), Label: "node"})
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func get(t *testing.T, s *authority.Set, name string) authority.CA {
	t.Helper()
	ca, err := s.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A rotation from the first CA to another: what the store vouches for at each step, also after the lab was down.
func TestRotation(t *testing.T) {
	s, dir := newSet(t, small())
	trusted := func(step string, want ...string) {
		t.Helper()
		// A lab that was down and is brought up again has the same.
		again := authority.Open(dir, small())
		must(t, os.RemoveAll(dir.CertStore()))
		must(t, again.Prepare())
		for _, name := range []string{authority.First, "ca-2"} {
			cert := issue(t, again, name)
			if _, err := ekca.CheckStore(dir.CertStore(), cert); (err == nil) != slices.Contains(want, name) {
				t.Errorf("%s: the store on a certificate of %s: %v", step, name, err)
			}
			if ca, ok, err := again.Of(cert); err != nil || !ok || ca.Name != name {
				t.Errorf("%s: the certificate of %s is said to be of %q, %v, %v", step, name, ca.Name, ok, err)
			}
		}
	}
	name, err := s.NextName()
	if err != nil || name != "ca-2" {
		t.Fatal(name, err)
	}
	after, err := s.New(name, "ecc-p384")
	must(t, err)
	first := get(t, s, authority.First)
	for i, cert := range after.Chain() {
		if cert.Subject.String() == first.Chain()[i].Subject.String() {
			t.Errorf("two CAs have the subject %s", cert.Subject)
		}
	}
	if after.Config().Algorithm != ekca.ECCP384 || after.Active || after.Trusted() || !first.Active || first.Level != authority.All {
		t.Errorf("new: %+v; first: %+v", after, first)
	}
	trusted("made", authority.First)
	files, err := s.Trust("ca-2", authority.Root)
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	trusted("root alone", authority.First)
	if files, err = s.Trust("ca-2", authority.Issuer); err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	trusted("issuer", authority.First, "ca-2")
	must(t, s.Distrust("ca-2"))
	cross, file, err := s.CrossSign("ca-2", authority.First)
	if err != nil || !strings.HasPrefix(file, "issuing-ca-ca-2-") || cross.Issuer.String() != first.Root().Subject.String() {
		t.Fatal(file, err)
	}
	trusted("cross-signed", authority.First, "ca-2")
	must(t, s.Distrust(authority.First))
	trusted("the cross-signer is gone", "ca-2")
	before, err := s.Activate("ca-2")
	if err != nil || before != authority.First {
		t.Error(before, err)
	}
	if active, err := s.Active(); err != nil || active.Name != "ca-2" || active.Retired || !get(t, s, authority.First).Retired {
		t.Errorf("active: %+v, %v", active, err)
	}
	must(t, s.Distrust("ca-2"))
	trusted("nobody")
	if left, err := get(t, s, "ca-2").InStore(dir.CertStore()); err != nil || len(left) > 0 {
		t.Errorf("left in the store: %v, %v", left, err)
	}
	if _, err = s.Activate(authority.First); err != nil || get(t, s, authority.First).Retired || !get(t, s, "ca-2").Retired {
		t.Errorf("back to the first: %v", err)
	}
	must(t, s.MarkLeaked("ca-2"))
	if list, err := authority.Open(dir, small()).List(); err != nil || len(list) != 2 || !list[1].Leaked || list[0].Leaked {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestMistakes(t *testing.T) {
	s, _ := newSet(t, small())
	want := func(err error, text string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v; want %q", err, text)
		}
	}
	for _, name := range []string{"", "x", "../ekca", "UP", "stranger", "leaked", strings.Repeat("a", 25)} {
		_, err := s.New(name, "")
		want(err, "cannot be the name")
	}
	_, err := s.New(authority.First, "")
	want(err, "already")
	_, err = s.New("ca-2", "dsa")
	want(err, `algorithm "dsa" is none of`)
	_, err = s.Trust("ca-9", authority.All)
	want(err, `no such EK CA "ca-9"; the lab has ca-1`)
	if !errors.Is(err, authority.ErrUnknown) {
		t.Error("the error is not ErrUnknown")
	}
	_, err = s.Trust(authority.First, "leaf")
	want(err, "there is no level")
	_, err = s.Activate(authority.Stranger)
	want(err, "cannot be active")
	_, err = s.Trust(authority.Stranger, authority.All)
	want(err, "no such EK CA")
	_, _, err = s.CrossSign(authority.First, authority.First)
	want(err, "itself")
}

// The stranger's CA, where there is one, can be trusted, as an operator might by mistake.
func TestStranger(t *testing.T) {
	p := small()
	p.Stranger = true
	s, dir := newSet(t, p)
	cert := issue(t, s, authority.Stranger)
	if _, err := ekca.CheckStore(dir.CertStore(), cert); !errors.Is(err, ekca.ErrNotInStore) {
		t.Errorf("the stranger is trusted: %v", err)
	}
	_, err := s.Trust(authority.Stranger, authority.All)
	must(t, err)
	if _, err := ekca.CheckStore(dir.CertStore(), cert); err != nil {
		t.Error(err)
	}
	if list, err := s.List(); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
}
