package bootlog

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
)

var allBanks = []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512}

func make1(t *testing.T, m Machine, banks ...crypto.Hash) *Log {
	t.Helper()
	if len(banks) == 0 {
		banks = allBanks
	}
	l, err := Make(m, banks)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// changed are the PCRs that have other values in b than in a.
func changed(a, b map[int][]byte) []int {
	var out []int
	for pcr := range 24 {
		if !bytes.Equal(a[pcr], b[pcr]) {
			out = append(out, pcr)
		}
	}
	return out
}

func TestSameMachineSameLog(t *testing.T) {
	m := NewMachine("fleet", "n1")
	if !bytes.Equal(make1(t, m).Bytes(), make1(t, m).Bytes()) {
		t.Error("two logs of one machine differ")
	}
	a, b := make1(t, m).PCRs(crypto.SHA256), make1(t, NewMachine("fleet", "n2")).PCRs(crypto.SHA256)
	// A node's disk is in boot entries, in the partition table, and in the menu entry that GRUB runs.
	if diff := cmp.Diff([]int{1, 5, 8}, changed(a, b)); diff != "" {
		t.Errorf("PCRs that differ between nodes of a fleet: %s", diff)
	}
	c := make1(t, NewMachine("other", "n1")).PCRs(crypto.SHA256)
	if diff := cmp.Diff([]int{7}, changed(a, c)); diff != "" {
		t.Errorf("PCRs that differ between fleets: %s", diff)
	}
}

func TestPCRsExtended(t *testing.T) {
	m := NewMachine("fleet", "n1")
	firmwareAndGRUB := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14}
	if diff := cmp.Diff(firmwareAndGRUB, slices.Sorted(maps.Keys(make1(t, m).PCRs(crypto.SHA256)))); diff != "" {
		t.Errorf("with GRUB: %s", diff)
	}
	m.Stub = true
	want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(make1(t, m).PCRs(crypto.SHA256)))); diff != "" {
		t.Errorf("with systemd-stub: %s", diff)
	}
}

func TestFirmwareUpdate(t *testing.T) {
	m := NewMachine("fleet", "n1")
	for _, bank := range allBanks {
		before, after := make1(t, m).PCRs(bank), make1(t, m.FirmwareUpdate("2.2.0")).PCRs(bank)
		if diff := cmp.Diff([]int{0}, changed(before, after)); diff != "" {
			t.Errorf("%v: %s", bank, diff)
		}
	}
	before, after := make1(t, m).Events(), make1(t, m.FirmwareUpdate("2.2.0")).Events()
	for i, e := range before {
		if e.PCR == 0 && (e.Type == Separator) != bytes.Equal(e.Digests[crypto.SHA256], after[i].Digests[crypto.SHA256]) {
			t.Errorf("event %d, %v: all of the firmware changes, and the separator does not", i+1, e.Type)
		}
	}
}

// systemd-stub measures a section's name with its NUL, the command line in UTF-16 with it.
func TestStubMeasuresByConvention(t *testing.T) {
	m := NewMachine("fleet", "n1")
	m.Stub, m.CommandLine = true, "ro"
	var first11, first12 Event
	for _, e := range slices.Backward(make1(t, m).Events()) {
		switch e.PCR {
		case 11:
			first11 = e
		case 12:
			first12 = e
		}
	}
	if want := sha256.Sum256([]byte(".linux\x00")); !bytes.Equal(first11.Digests[crypto.SHA256], want[:]) {
		t.Errorf("PCR 11 starts with %x, not %x", first11.Digests[crypto.SHA256], want)
	}
	if want := sha256.Sum256([]byte("r\x00o\x00\x00\x00")); !bytes.Equal(first12.Digests[crypto.SHA256], want[:]) {
		t.Errorf("PCR 12 starts with %x, not %x", first12.Digests[crypto.SHA256], want)
	}
}

// What is given is used, and what callers get they may change.
func TestGivenValues(t *testing.T) {
	m := NewMachine("fleet", "n1")
	given := bytes.Repeat([]byte{0xab}, 32)
	m.Kernel.Authenticode = map[crypto.Hash][]byte{crypto.SHA256: given}
	owner := uuid.MustParse("01234567-89ab-4cde-8f01-23456789abcd")
	m.Keys.DBX = []Signature{{Owner: owner, SHA256: given}}
	l := make1(t, m)

	find := func(pcr int, part []byte) Event {
		for _, e := range l.Events() {
			if e.PCR == pcr && (bytes.Contains(e.Data, part) || bytes.Equal(e.Digests[crypto.SHA256], part)) {
				return e
			}
		}
		t.Fatalf("no event in PCR %d has %x", pcr, part)
		return Event{}
	}
	if e := find(4, given); e.Type != BootServicesApplication {
		t.Errorf("the kernel's digest is in an event of type %v", e.Type)
	}
	e := find(7, given)
	// The GUID's first three fields are stored the other way round.
	if onDisk := []byte{0x67, 0x45, 0x23, 0x01, 0xab, 0x89, 0xde, 0x4c, 0x8f, 0x01}; !bytes.Contains(e.Data, onDisk) {
		t.Errorf("dbx has no owner %x: %x", onDisk, e.Data)
	}

	before := l.Bytes()
	ref := refStateOf(t, m)
	m.Keys.DBX[0] = strangeHash()
	delete(m.Kernel.Authenticode, crypto.SHA256)
	if now, err := l.RefState(); err != nil || string(now) != ref {
		t.Errorf("a change of the machine changed the log's reference state: %v", err)
	}
	l.Events()[0].Data[0] ^= 1
	l.Events()[0].Digests[crypto.SHA256][0] ^= 1
	l.Extensions()[0].Digests[crypto.SHA256][0] ^= 1
	if !bytes.Equal(before, l.Bytes()) || l.Mismatched() != nil {
		t.Error("a change of returned values changed the log")
	}
}

func TestMadeCertificatesParse(t *testing.T) {
	k, err := madeKeys("fleet")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range slices.Concat(k.PK, k.KEK, k.DB) {
		c, err := x509.ParseCertificate(s.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		if c.PublicKeyAlgorithm != x509.RSA || !c.IsCA || !bytes.HasPrefix(c.Raw, []byte{0x30, 0x82}) {
			t.Errorf("%s: %v, CA %v, starts %x", c.Subject, c.PublicKeyAlgorithm, c.IsCA, c.Raw[:4])
		}
	}
}

func TestMakeRefuses(t *testing.T) {
	for _, c := range []struct {
		name  string
		edit  func(*Machine)
		banks []crypto.Hash
		want  string
	}{
		{"no bank", nil, []crypto.Hash{}, "no PCR bank"},
		{"MD5", nil, []crypto.Hash{crypto.MD5}, "no PCR bank for MD5"},
		{"twice", nil, []crypto.Hash{crypto.SHA256, crypto.SHA256}, "given twice"},
		{"zero machine", func(m *Machine) { *m = Machine{} }, nil, "Firmware.Vendor is empty; start from NewMachine"},
		{"relative path", func(m *Machine) { m.Kernel.Path = "vmlinuz" }, nil, "Kernel.Path"},
		{"two lines", func(m *Machine) { m.CommandLine = "a\nb" }, nil, "not printable"},
		{"short digest", func(m *Machine) { m.Shim.Plain = map[crypto.Hash][]byte{crypto.SHA256: {1}} }, nil, "1 bytes, not 32"},
		{"no PK", func(m *Machine) { m.Keys.PK = []Signature{} }, nil, "setup mode"},
		{"PEM", func(m *Machine) { m.MOK = []Signature{{Certificate: []byte("-----BEGIN")}} }, nil, "MOK[0]: a Certificate must be one DER value"},
		{"empty entry", func(m *Machine) { m.Keys.DB = []Signature{{}} }, nil, "DB[0]: exactly one of"},
	} {
		m, banks := NewMachine("fleet", "n1"), c.banks
		if c.edit != nil {
			c.edit(&m)
		}
		if banks == nil {
			banks = allBanks
		}
		if _, err := Make(m, banks); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, not %q", c.name, err, c.want)
		}
	}
}

func TestTampersDoWhatTheySay(t *testing.T) {
	m := NewMachine("fleet", "n1")
	good := make1(t, m)
	for _, tamper := range Tampers() {
		t.Run(tamper.Name, func(t *testing.T) {
			if got, err := TamperNamed(tamper.Name); err != nil || got.Description != tamper.Description {
				t.Errorf("TamperNamed: %q, %v", got.Description, err)
			}
			bad, err := tamper.Apply(m, allBanks)
			if err != nil {
				t.Fatal(err)
			}
			for _, bank := range allBanks {
				if diff := cmp.Diff(tamper.PCRs, changed(good.PCRs(bank), bad.PCRs(bank))); diff != "" {
					t.Errorf("%v: PCRs that changed: %s", bank, diff)
				}
			}
			if broken := bad.Mismatched(); (broken != nil) != tamper.BreaksReplay {
				t.Errorf("the log does not explain PCRs %v; BreaksReplay is %v", broken, tamper.BreaksReplay)
			}
			if bytes.Equal(good.Bytes(), bad.Bytes()) && len(tamper.PCRs) == 0 {
				t.Error("neither log nor PCRs changed")
			}
		})
	}
	m.Stub = true
	for _, name := range []string{"dropped-event", "rewritten-text"} {
		tamper, err := TamperNamed(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tamper.Apply(m, allBanks); err == nil || !strings.Contains(err.Error(), "nothing to change") {
			t.Errorf("%s with systemd-stub: %v", name, err)
		}
	}
	if _, err := TamperNamed("unheard-of"); err == nil || !strings.Contains(err.Error(), "command-line") {
		t.Errorf("the error does not name tampers: %v", err)
	}
}
