package lab_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keylab.dev/keylab/ekca"
	"keylab.dev/keylab/lab"
	"keylab.dev/keylab/lab/authority"
	"keylab.dev/keylab/lab/state"
)

// All CAs of a lab are told of, and which of their certificates are in the tpm_cert_store.
func TestCertificatesSayWhatIsTrusted(t *testing.T) {
	t.Setenv(state.EnvBase, t.TempDir())
	p, err := lab.Plan(lab.Spec{Name: "trust"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Open("trust")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Dir().Create(); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.Dir().Plan(), data, 0o600); err != nil {
		t.Fatal(err)
	}
	set := authority.Open(l.Dir(), p.EKCA)
	if err := set.Prepare(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"issuer-only", "root-only", "crossed", "new"} {
		if _, err := set.New(name, ""); err != nil {
			t.Fatal(err)
		}
	}
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(set.Trust("issuer-only", authority.Issuer))
	must(set.Trust("root-only", authority.Root))
	_, _, err = set.CrossSign("crossed", authority.First)
	must(nil, err)
	must(nil, set.MarkLeaked("issuer-only"))
	ca, err := set.Get("issuer-only")
	must(nil, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(nil, err)
	stolen, err := ca.Issue(ekca.Request{Public: key.Public(), Unrecorded: true})
	must(nil, err)
	must(nil, set.KeepLeaked(stolen))
	list, err := l.Certificates()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range list {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %v %s", c.CA, c.Kind, c.Trusted, c.Note)))
	}
	want := []string{
		"ca-1 root true", "ca-1 intermediate true",
		"issuer-only root false its key has leaked", "issuer-only intermediate true its key has leaked",
		"root-only root true", "root-only intermediate false",
		"crossed root false certified by ca-1 too", "crossed intermediate true certified by ca-1 too",
		"new root false", "new intermediate false",
		"issuer-only EK false made with a stolen key",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if c := list[len(list)-1]; c.Subject != "a thief's TPM" || c.Serial != fmt.Sprintf("%X", stolen.SerialNumber) || c.SHA256 != ekca.Fingerprint(stolen) {
		t.Errorf("the thief's certificate: %+v", c)
	}
}
