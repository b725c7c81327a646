package bootlog

import (
	"crypto"
	"strings"
	"testing"

	"github.com/google/go-eventlog/extract"
	pb "github.com/google/go-eventlog/proto/state"
	"github.com/google/go-eventlog/register"
	"github.com/google/go-eventlog/tcg"
	"github.com/google/go-eventlog/tpmeventlog"
)

// bankOf is a TPM's bank as go-eventlog takes it: the PCRs that a boot can extend, with those it left at zero.
func bankOf(l *Log, bank crypto.Hash) register.PCRBank {
	algorithms := map[crypto.Hash]pb.HashAlgo{crypto.SHA1: pb.HashAlgo_SHA1, crypto.SHA256: pb.HashAlgo_SHA256, crypto.SHA384: pb.HashAlgo_SHA384}
	out := register.PCRBank{TCGHashAlgo: algorithms[bank]}
	values := l.PCRs(bank)
	for pcr := range 16 {
		value := values[pcr]
		if value == nil {
			value = make([]byte, bank.Size())
		}
		out.PCRs = append(out.PCRs, register.PCR{Index: pcr, Digest: value, DigestAlg: bank})
	}
	return out
}

// The banks that go-eventlog knows.
var eventlogBanks = []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384}

func TestGoEventlogReplaysAndUnderstands(t *testing.T) {
	for _, bank := range eventlogBanks {
		m := NewMachine("fleet", "n1")
		l := make1(t, m, eventlogBanks...)
		state, err := tpmeventlog.ReplayAndExtract(l.Bytes(), bankOf(l, bank), extract.Opts{Loader: extract.GRUB})
		if err != nil {
			t.Fatalf("%v: %v", bank, err)
		}
		sb := state.GetSecureBoot()
		if !sb.GetEnabled() || len(sb.GetPk().GetCerts()) != 1 || len(sb.GetDb().GetCerts()) != 2 || len(sb.GetDbx().GetHashes()) != 4 {
			t.Errorf("%v: Secure Boot: %v", bank, sb)
		}
		if n := len(sb.GetAuthority().GetCerts()); n != 2 {
			t.Errorf("%v: %d certificates were used to verify, not those of shim and of GRUB", bank, n)
		}
		want := m.Kernel.Path + " " + m.CommandLine + "\x00"
		if got := state.GetLinuxKernel().GetCommandLine(); got != want {
			t.Errorf("%v: command line %q, not %q", bank, got, want)
		}
		if n := len(state.GetEfi().GetApps()); n != 3 {
			t.Errorf("%v: %d EFI applications, not shim, GRUB and the kernel", bank, n)
		}
		if got := string(state.GetPlatform().GetScrtmVersionId()); got != string(m.Firmware.crtm()) {
			t.Errorf("%v: firmware version %q", bank, got)
		}
	}
}

func TestGoEventlogOtherMachines(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*Machine)
	}{
		{"Secure Boot off", func(m *Machine) { m.SecureBoot = false }},
		{"no keys", func(m *Machine) {
			m.SecureBoot = false
			m.Keys = Keys{PK: []Signature{}, KEK: []Signature{}, DB: []Signature{}, DBX: []Signature{}}
		}},
		{"systemd-stub", func(m *Machine) { m.Stub = true }},
	} {
		m := NewMachine("fleet", "n1")
		c.edit(&m)
		l := make1(t, m, eventlogBanks...)
		for _, bank := range eventlogBanks {
			state, err := tpmeventlog.ReplayAndExtract(l.Bytes(), bankOf(l, bank), extract.Opts{Loader: extract.GRUB})
			if err != nil {
				t.Errorf("%s, %v: %v", c.name, bank, err)
			}
			if got := state.GetSecureBoot().GetEnabled(); got != m.SecureBoot {
				t.Errorf("%s, %v: Secure Boot is %v", c.name, bank, got)
			}
		}
	}
}

func TestGoEventlogSeesTampering(t *testing.T) {
	m := NewMachine("fleet", "n1")
	for _, tamper := range Tampers() {
		l, err := tamper.Apply(m, eventlogBanks)
		if err != nil {
			t.Fatal(err)
		}
		for _, bank := range eventlogBanks {
			_, err := tcg.ParseAndReplay(l.Bytes(), bankOf(l, bank).MRs(), tcg.ParseOpts{})
			if (err != nil) != tamper.BreaksReplay {
				t.Errorf("%s, %v: BreaksReplay is %v, but go-eventlog says: %v", tamper.Name, bank, tamper.BreaksReplay, err)
			}
			if err != nil && !strings.Contains(err.Error(), "failed to replay") {
				t.Errorf("%s, %v: the log does not parse: %v", tamper.Name, bank, err)
			}
		}
	}
}

// Text and digest disagree after this tamper, which replay alone cannot see and a look into the events can.
func TestGoEventlogSeesRewrittenText(t *testing.T) {
	tamper, err := TamperNamed("rewritten-text")
	if err != nil {
		t.Fatal(err)
	}
	l, err := tamper.Apply(NewMachine("fleet", "n1"), eventlogBanks)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpmeventlog.ReplayAndExtract(l.Bytes(), bankOf(l, crypto.SHA256), extract.Opts{Loader: extract.GRUB})
	if err == nil || !strings.Contains(err.Error(), "invalid GRUB event") {
		t.Errorf("go-eventlog says: %v", err)
	}
}

// Every untouched log replays only to the PCRs of its own machine.
func TestGoEventlogOtherPCRs(t *testing.T) {
	m := NewMachine("fleet", "n1")
	l, updated := make1(t, m, eventlogBanks...), make1(t, m.FirmwareUpdate("2.2.0"), eventlogBanks...)
	_, err := tcg.ParseAndReplay(l.Bytes(), bankOf(updated, crypto.SHA256).MRs(), tcg.ParseOpts{})
	if err == nil || !strings.Contains(err.Error(), "[0]") {
		t.Errorf("an old log against PCRs after a firmware update: %v", err)
	}
}
