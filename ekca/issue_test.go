package ekca_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keylab.dev/keylab/ekca"
)

// With racerEnv set, the test binary is a second process that issues: see TestProcessesShareOneSerialSpace.
const racerEnv = "KEYLAB_EKCA_TEST_RACER"

func TestMain(m *testing.M) {
	if dir := os.Getenv(racerEnv); dir != "" {
		if err := race(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestIssueFields(t *testing.T) {
	ca := create(t, ekca.Config{Intermediates: 1, CRLURL: "http://crl.test/ek.crl", AIAURL: "http://crl.test/ca.der"})
	model := ekca.Model{Manufacturer: "id:494E5443", Model: "Ünit 7", Version: "id:00020000"}
	cert := issue(t, ca, ekca.Request{TPM: model, Serial: big.NewInt(4711)})
	got, err := ekca.ParseModel(cert)
	if err != nil || got != model {
		t.Errorf("model %+v, error %v", got, err)
	}
	if cert.SerialNumber.Int64() != 4711 {
		t.Errorf("serial number %v", cert.SerialNumber)
	}
	if !cert.PublicKey.(*rsa.PublicKey).Equal(rsaEK()) {
		t.Error("another public key than asked for")
	}
	if !bytes.Equal(cert.AuthorityKeyId, ca.Issuer().SubjectKeyId) || len(cert.AuthorityKeyId) == 0 {
		t.Error("authority key id is not the issuer's")
	}
	if fmt.Sprint(cert.CRLDistributionPoints, cert.IssuingCertificateURL) != "[http://crl.test/ek.crl] [http://crl.test/ca.der]" {
		t.Errorf("%v %v", cert.CRLDistributionPoints, cert.IssuingCertificateURL)
	}
	if cert.KeyUsage != x509.KeyUsageKeyEncipherment {
		t.Errorf("RSA key usage %b", cert.KeyUsage)
	}
	if c := issue(t, ca, ekca.Request{Public: eccEK()}); c.KeyUsage != x509.KeyUsageKeyAgreement {
		t.Errorf("ECC key usage %b", c.KeyUsage)
	}
}

// The profile's ASN.1 has UTF8String for the TPM's attributes and for the specification's family.
func TestStringsAreUTF8(t *testing.T) {
	utf8String := func(s string) []byte { return append([]byte{asn1.TagUTF8String, byte(len(s))}, s...) }
	model := ekca.SimulatedModel()
	cert := issue(t, create(t, ekca.Config{}), ekca.Request{})
	for _, s := range []string{model.Manufacturer, model.Model, model.Version, "2.0"} {
		if !bytes.Contains(cert.RawTBSCertificate, utf8String(s)) {
			t.Errorf("%q is not there as UTF8String", s)
		}
	}
}

func TestIssueTakesECDHKeys(t *testing.T) {
	ca := create(t, ekca.Config{})
	priv := newECC(elliptic.P256())
	public, err := priv.PublicKey.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	if cert := issue(t, ca, ekca.Request{Public: public}); !priv.PublicKey.Equal(cert.PublicKey) {
		t.Error("the certificate is for another key")
	}
}

func TestIssueDates(t *testing.T) {
	now := time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)
	ca := create(t, ekca.Config{Now: func() time.Time { return now }, Validity: 1000 * time.Hour, EKValidity: 100 * time.Hour})
	end := now.Add(1000 * time.Hour)
	for name, c := range map[string]struct{ from, to, wantFrom, wantTo time.Time }{
		"default":       {wantFrom: now, wantTo: now.Add(100 * time.Hour)},
		"both":          {from: now.Add(1 * time.Hour), to: now.Add(2 * time.Hour), wantFrom: now.Add(1 * time.Hour), wantTo: now.Add(2 * time.Hour)},
		"expired":       {to: now.Add(-1 * time.Hour), wantFrom: now.Add(-101 * time.Hour), wantTo: now.Add(-1 * time.Hour)},
		"future":        {from: now.Add(5 * time.Hour), wantFrom: now.Add(5 * time.Hour), wantTo: now.Add(105 * time.Hour)},
		"cut at CA":     {from: end.Add(-time.Hour), wantFrom: end.Add(-time.Hour), wantTo: end},
		"beyond the CA": {to: end.Add(time.Hour), wantFrom: now, wantTo: end.Add(time.Hour)},
	} {
		cert := issue(t, ca, ekca.Request{NotBefore: c.from, NotAfter: c.to})
		if !cert.NotBefore.Equal(c.wantFrom) || !cert.NotAfter.Equal(c.wantTo) {
			t.Errorf("%s: %v to %v, want %v to %v", name, cert.NotBefore, cert.NotAfter, c.wantFrom, c.wantTo)
		}
	}
	if _, err := ca.Issue(ekca.Request{Public: rsaEK(), NotBefore: now, NotAfter: now}); err == nil {
		t.Error("a certificate of no duration was issued")
	}
}

func TestIssueRefuses(t *testing.T) {
	ca := create(t, ekca.Config{})
	ed, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	small := &rsa.PublicKey{N: new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), 1023), big.NewInt(1)), E: 65537}
	for name, c := range map[string]struct {
		request ekca.Request
		want    error
	}{
		"no key":            {ekca.Request{}, ekca.ErrUnsupportedKey},
		"Ed25519":           {ekca.Request{Public: ed}, ekca.ErrUnsupportedKey},
		"RSA-1024":          {ekca.Request{Public: small}, ekca.ErrUnsupportedKey},
		"manufacturer":      {ekca.Request{Public: rsaEK(), TPM: ekca.Model{Manufacturer: "IBM", Model: "m", Version: "id:0001"}}, ekca.ErrModel},
		"no model":          {ekca.Request{Public: rsaEK(), TPM: ekca.Model{Manufacturer: "id:49424D00", Version: "id:0001"}}, ekca.ErrModel},
		"version":           {ekca.Request{Public: rsaEK(), TPM: ekca.Model{Manufacturer: "id:49424D00", Model: "m", Version: "1.2"}}, ekca.ErrModel},
		"serial 0":          {ekca.Request{Public: rsaEK(), Serial: big.NewInt(0)}, nil},
		"serial < 0":        {ekca.Request{Public: rsaEK(), Serial: big.NewInt(-5)}, nil},
		"serial too long":   {ekca.Request{Public: rsaEK(), Serial: new(big.Int).Lsh(big.NewInt(1), 159)}, nil},
		"negative revision": {ekca.Request{Public: rsaEK(), Revision: -1}, nil},
	} {
		cert, err := ca.Issue(c.request)
		if err == nil || cert != nil {
			t.Errorf("%s: issued", name)
		} else if c.want != nil {
			mustBe(t, err, c.want)
		}
	}
	if records, err := ca.Issued(); err != nil || len(records) != 0 {
		t.Errorf("refused requests left %d records, error %v", len(records), err)
	}
}

func TestSerialTaken(t *testing.T) {
	ca := create(t, ekca.Config{})
	issue(t, ca, ekca.Request{Serial: big.NewInt(255), Label: "first"})
	_, err := ca.Issue(ekca.Request{Public: eccEK(), Serial: big.NewInt(255), Label: "second"})
	mustBe(t, err, ekca.ErrSerialTaken)
	records, err := ca.Issued()
	if err != nil || len(records) != 1 || records[0].Label != "first" {
		t.Errorf("records %+v, error %v", records, err)
	}
}

// A re-issued certificate for the same EK is another certificate, and both are on record.
func TestRecord(t *testing.T) {
	now := time.Date(2030, 5, 1, 12, 0, 0, 0, time.UTC)
	ca := create(t, ekca.Config{Now: func() time.Time { now = now.Add(time.Second); return now }})
	first := issue(t, ca, ekca.Request{Label: "node-1"})
	second := issue(t, ca, ekca.Request{Label: "node-1 again"})
	if first.SerialNumber.Cmp(second.SerialNumber) == 0 || first.SerialNumber.BitLen() <= 152 {
		t.Errorf("serial numbers %x and %x", first.SerialNumber, second.SerialNumber)
	}
	records, err := ca.Issued()
	if err != nil || len(records) != 2 {
		t.Fatalf("%d records, error %v", len(records), err)
	}
	r := records[1]
	if r.Label != "node-1 again" || r.Serial.Cmp(second.SerialNumber) != 0 || r.SPKI != ekca.FingerprintSPKI(first) || r.Status != ekca.Valid ||
		!r.NotBefore.Equal(second.NotBefore) || !r.NotAfter.Equal(second.NotAfter) {
		t.Errorf("second record is %+v", r)
	}
	if data, err := os.ReadFile(r.File); err != nil || !bytes.Equal(data, ekca.PEM(second)) {
		t.Errorf("%s does not hold the certificate, error %v", r.File, err)
	}
	if found, err := ca.Lookup(first); err != nil || found.Label != "node-1" {
		t.Errorf("Lookup: %+v, %v", found, err)
	}
}

func TestLookupFindsForgeries(t *testing.T) {
	ca := create(t, ekca.Config{})
	mine := issue(t, ca, ekca.Request{Serial: big.NewInt(9)})
	stolen := issue(t, ca, ekca.Request{Unrecorded: true})
	twin := issue(t, ca, ekca.Request{Public: eccEK(), Serial: mine.SerialNumber, Unrecorded: true})
	stranger := issue(t, create(t, ekca.Config{}), ekca.Request{})
	for name, c := range map[string]*x509.Certificate{"stolen key": stolen, "same serial number": twin, "other CA": stranger, "none": nil} {
		_, err := ca.Lookup(c)
		if err == nil {
			t.Errorf("%s: found", name)
		}
		mustBe(t, err, ekca.ErrNotIssued)
	}
	if err := ca.Verify(stolen, time.Now()); err != nil {
		t.Errorf("what the stolen key signed should look right: %v", err)
	}
}

func TestIssueConcurrently(t *testing.T) {
	ca := create(t, ekca.Config{})
	var wg sync.WaitGroup
	const n = 64
	for i := range n {
		wg.Go(func() {
			if _, err := ca.Issue(ekca.Request{Public: eccEK(), Label: fmt.Sprint("node-", i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	records, err := ca.Issued()
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]bool{}
	for _, r := range records {
		labels[r.Label] = true
	}
	if len(records) != n || len(labels) != n {
		t.Errorf("%d records with %d labels for %d certificates", len(records), len(labels), n)
	}
	noStrayFiles(t, ca.Dir())
}

func noStrayFiles(t *testing.T, dir string) {
	t.Helper()
	for _, pattern := range []string{".*", "*/.*"} {
		if stray, err := filepath.Glob(filepath.Join(dir, pattern)); err != nil || len(stray) > 0 {
			t.Errorf("left behind: %v %v", stray, err)
		}
	}
}

const raceSerials = 40

// race takes as many of the serial numbers 1 to raceSerials as it can and prints them.
func race(dir string) error {
	ca, err := ekca.Open(dir)
	if err != nil {
		return err
	}
	key := &newECC(elliptic.P256()).PublicKey
	for i := int64(1); i <= raceSerials; i++ {
		if _, err := ca.Issue(ekca.Request{Public: key, Serial: big.NewInt(i)}); err == nil {
			fmt.Println(i)
		} else if !strings.Contains(err.Error(), ekca.ErrSerialTaken.Error()) {
			return err
		}
	}
	return nil
}

func TestProcessesShareOneSerialSpace(t *testing.T) {
	ca := create(t, ekca.Config{})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	outputs := make([]bytes.Buffer, 4)
	var wg sync.WaitGroup
	for i := range outputs {
		wg.Go(func() {
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), racerEnv+"="+ca.Dir())
			cmd.Stdout, cmd.Stderr = &outputs[i], &outputs[i]
			if err := cmd.Run(); err != nil {
				t.Errorf("%v: %v: %s", cmd.Args, err, &outputs[i])
			}
		})
	}
	wg.Wait()
	winners := map[string]int{}
	for i := range outputs {
		for _, serial := range strings.Fields(outputs[i].String()) {
			winners[serial]++
		}
	}
	for serial, n := range winners {
		if n != 1 {
			t.Errorf("serial number %s was issued %d times", serial, n)
		}
	}
	if records, err := ca.Issued(); err != nil || len(records) != raceSerials || len(winners) != raceSerials {
		t.Errorf("%d records and %d winners for %d serial numbers, error %v", len(records), len(winners), raceSerials, err)
	}
	noStrayFiles(t, ca.Dir())
}
