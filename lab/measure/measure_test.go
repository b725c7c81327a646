package measure_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"keylab.dev/keylab/bootlog"
	"keylab.dev/keylab/ima"
	"keylab.dev/keylab/lab/measure"
	"keylab.dev/keylab/tpmsim"
)

// banks are those of a new swtpm.
var banks = map[crypto.Hash]tpm2.TPMAlgID{
	crypto.SHA1: tpm2.TPMAlgSHA1, crypto.SHA256: tpm2.TPMAlgSHA256, crypto.SHA384: tpm2.TPMAlgSHA384, crypto.SHA512: tpm2.TPMAlgSHA512,
}

func file(path string) measure.File {
	sum := sha256.Sum256([]byte(path))
	return measure.File{Path: path, Digest: ima.Digest{Hash: crypto.SHA256, Sum: sum[:]}}
}

// machine is a node with a TPM of its own.
type machine struct {
	*measure.Node
	tpm *tpmsim.TPM
	dir string
}

func newMachine(t *testing.T, boot, files bool) machine {
	t.Helper()
	if err := tpmsim.Swtpm().Available(); err != nil {
		t.Skip(err)
	}
	tpm, err := tpmsim.Open(t.Context(), tpmsim.Options{Dir: filepath.Join(t.TempDir(), "tpm"), Backend: tpmsim.Swtpm()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tpm.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	o := measure.Options{Dir: filepath.Join(t.TempDir(), "measured"), OpenTPM: func() (transport.TPMCloser, error) { return tpm.Client(), nil }}
	if boot {
		m := bootlog.NewMachine("fleet", "node-1")
		o.Machine = &m
	}
	if files {
		o.IMA = &measure.IMA{Template: ima.TemplateNG, Files: []measure.File{file("/sbin/init"), file("/bin/a b")}}
	}
	n, err := measure.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return machine{n, tpm, o.Dir}
}

func (m machine) boot(t *testing.T) {
	t.Helper()
	if err := m.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (m machine) reboot(t *testing.T) {
	t.Helper()
	if err := m.tpm.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.boot(t)
}

// pcrs reads the TPM past the node.
func (m machine) pcrs(t *testing.T, bank crypto.Hash, pcrs ...int) map[int][]byte {
	t.Helper()
	values, err := m.tpm.ReadPCRs(t.Context(), banks[bank], pcrs...)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

// list reads the list by the node and by its file, which must be the same.
func (m machine) list(t *testing.T) *ima.List {
	t.Helper()
	r, err := m.OpenList()
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	onDisk, err := os.ReadFile(m.ListPath())
	if err != nil || !bytes.Equal(text, onDisk) {
		t.Errorf("the file differs from the list (%v):\n%s\nand\n%s", err, onDisk, text)
	}
	list, err := ima.Parse(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// explains tells, for all banks alike, whether the list adds up to PCR 10.
func (m machine) explains(t *testing.T, want bool) {
	t.Helper()
	list := m.list(t)
	for bank := range banks {
		replay, err := list.Replay(bank)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Equal(replay, m.pcrs(t, bank, 10)[10]); got != want {
			t.Errorf("the list explains PCR 10 of bank %v: %v, want %v", bank, got, want)
		}
	}
}

func TestBoot(t *testing.T) {
	m := newMachine(t, true, true)
	if _, err := m.OpenList(); err == nil {
		t.Error("there is a list before the first boot")
	}
	if _, err := m.BootLog(); err == nil {
		t.Error("there is a boot log before the first boot")
	}
	m.boot(t)
	booted, err := m.Booted()
	if err != nil || booted.Tamper != "" || booted.Firmware != "2.1.0" || len(booted.Log.Banks()) != len(banks) {
		t.Fatalf("%+v, %v", booted, err)
	}
	for bank := range banks {
		values, log := m.pcrs(t, bank), booted.Log.Replay(bank)
		for pcr, value := range values {
			want := log[pcr]
			switch {
			case pcr == 10:
				continue
			case want == nil && pcr >= 17 && pcr <= 22:
				want = bytes.Repeat([]byte{0xff}, bank.Size())
			case want == nil:
				want = make([]byte, bank.Size())
			}
			if !bytes.Equal(value, want) {
				t.Errorf("PCR %d of bank %v is %x, want %x", pcr, bank, value, want)
			}
		}
	}
	if data, err := os.ReadFile(m.LogPath()); err != nil || !bytes.Equal(data, booted.Log.Bytes()) {
		t.Errorf("the file differs from the log: %v", err)
	}

	m.explains(t, true)
	h := sha256.New()
	first := m.pcrs(t, crypto.SHA256, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
	for pcr := range 10 {
		h.Write(first[pcr])
	}
	entries := m.list(t).Entries()
	var paths []string
	for _, e := range entries {
		paths = append(paths, e.Path)
	}
	if got := strings.Join(paths, " "); got != "boot_aggregate /sbin/init /bin/a_b" || !bytes.Equal(entries[0].Digest.Sum, h.Sum(nil)) {
		t.Errorf("the list has %s, with the aggregate %s, want %x", got, entries[0].Digest, h.Sum(nil))
	}
	if ref, err := m.RefState(); err != nil || !json.Valid(ref) {
		t.Errorf("reference state %s, %v", ref, err)
	}
}

// An agent may have the list's file open: it sees what is added and what is taken away.
func TestListChanges(t *testing.T) {
	m := newMachine(t, false, true)
	m.boot(t)
	open, err := os.Open(m.ListPath())
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	seen := func() string {
		t.Helper()
		if _, err := open.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(open)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}

	if _, err := m.Measure(t.Context(), file("/usr/bin/new")); err != nil {
		t.Fatal(err)
	}
	m.explains(t, true)
	if !strings.HasSuffix(seen(), " /usr/bin/new\n") {
		t.Errorf("the open file has\n%s", seen())
	}

	removed, err := m.TamperList()
	if err != nil || removed.Path != "/usr/bin/new" || strings.Contains(seen(), "/usr/bin/new") || m.list(t).Len() != 3 {
		t.Errorf("%+v, %v:\n%s", removed, err, seen())
	}
	m.explains(t, false)
	if _, err := m.Measure(t.Context(), file("/usr/bin/other")); err != nil {
		t.Fatal(err)
	}
	m.explains(t, false)
	for range 3 {
		if _, err := m.TamperList(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.TamperList(); err == nil || m.list(t).Len() != 1 {
		t.Errorf("the boot aggregate was taken out: %v", err)
	}

	m.reboot(t)
	m.explains(t, true)
	if err := m.TamperPCR(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.explains(t, false)
	if m.list(t).Len() != 3 {
		t.Error("the list has changed with PCR 10")
	}
	m.reboot(t)
	m.explains(t, true)
	if _, err := m.Measure(t.Context(), measure.File{Path: "/no/digest"}); err == nil || m.list(t).Len() != 3 {
		t.Errorf("a file without a digest was measured: %v", err)
	}
	m.explains(t, true)
}

func TestNextBoot(t *testing.T) {
	m := newMachine(t, true, false)
	m.boot(t)
	honest := m.pcrs(t, crypto.SHA256, 0, 8)
	ref, err := m.RefState()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.TamperBoot("nothing"); err == nil || !strings.Contains(err.Error(), "rewritten-event") {
		t.Errorf("a tamper that does not exist: %v", err)
	}
	if _, err := m.TamperBoot("rewritten-event"); err != nil {
		t.Fatal(err)
	}
	if now := m.pcrs(t, crypto.SHA256, 8); !bytes.Equal(now[8], honest[8]) {
		t.Error("the boot of before was tampered with")
	}
	m.reboot(t)
	b, err := m.Booted()
	if now := m.pcrs(t, crypto.SHA256, 8); err != nil || b.Tamper != "rewritten-event" || bytes.Equal(now[8], honest[8]) || !bytes.Equal(b.Log.Replay(crypto.SHA256)[8], honest[8]) {
		t.Errorf("the tampered boot: %v, %v, PCR 8 %x, before %x", b.Tamper, err, now[8], honest[8])
	}
	if again, err := m.RefState(); err != nil || !bytes.Equal(again, ref) {
		t.Errorf("a tamper changes the reference state: %v", err)
	}
	m.reboot(t)
	if b, err := m.Booted(); err != nil || b.Tamper != "" || !bytes.Equal(m.pcrs(t, crypto.SHA256, 8)[8], honest[8]) {
		t.Errorf("the boot after a tampered one: %+v, %v", b, err)
	}

	if err := m.UpdateFirmware("bad\nversion"); err == nil {
		t.Error("a firmware version of two lines was taken")
	}
	if err := m.UpdateFirmware("3.0"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it stays
		m.reboot(t)
		if b, err := m.Booted(); err != nil || b.Firmware != "3.0" || bytes.Equal(m.pcrs(t, crypto.SHA256, 0)[0], honest[0]) {
			t.Errorf("the boot with another firmware: %+v, %v", b, err)
		}
	}
	if updated, err := m.RefState(); err != nil || bytes.Equal(updated, ref) {
		t.Errorf("the reference state is that of the old firmware: %v", err)
	}
}

// A node that measures nothing costs nothing, and says so.
func TestNothing(t *testing.T) {
	n, err := measure.New(measure.Options{Dir: filepath.Join(t.TempDir(), "none"), OpenTPM: func() (transport.TPMCloser, error) {
		t.Error("the TPM was opened")
		return nil, errors.New("no")
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, list := n.OpenList()
	_, removed := n.TamperList()
	_, measured := n.Measure(t.Context(), file("/x"))
	for _, err := range []error{list, removed, measured, n.TamperPCR(t.Context())} {
		if !errors.Is(err, measure.ErrNoIMA) {
			t.Errorf("%v, want ErrNoIMA", err)
		}
	}
	_, log := n.BootLog()
	_, ref := n.RefState()
	_, tamper := n.TamperBoot("kernel")
	for _, err := range []error{log, ref, tamper, n.UpdateFirmware("3")} {
		if !errors.Is(err, measure.ErrNoBoot) {
			t.Errorf("%v, want ErrNoBoot", err)
		}
	}
	if n.ListPath() != "" || n.LogPath() != "" {
		t.Errorf("files %q and %q", n.ListPath(), n.LogPath())
	}
}
