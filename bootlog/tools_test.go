package bootlog

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// listing is what tpm2_eventlog prints.
type listing struct {
	Events []struct {
		Num     int    `yaml:"EventNum"`
		PCR     int    `yaml:"PCRIndex"`
		Type    string `yaml:"EventType"`
		Digests []struct {
			Algorithm string `yaml:"AlgorithmId"`
			Digest    string `yaml:"Digest"`
		} `yaml:"Digests"`
	} `yaml:"events"`
	PCRs map[string]map[int]yaml.Node `yaml:"pcrs"`
}

var bankNames = map[crypto.Hash]string{crypto.SHA1: "sha1", crypto.SHA256: "sha256", crypto.SHA384: "sha384", crypto.SHA512: "sha512"}

// write puts data into a file of the test's own folder.
func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// list runs tpm2_eventlog as Keylime does, and returns also what it complains of.
func list(t *testing.T, l *Log) (listing, string) {
	t.Helper()
	if _, err := exec.LookPath("tpm2_eventlog"); err != nil {
		t.Skip("tpm2_eventlog is missing: apt install tpm2-tools")
	}
	cmd := exec.CommandContext(t.Context(), "tpm2_eventlog", "--eventlog-version=2", write(t, "log", l.Bytes()))
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v: %s", cmd.Args, err, complaints.String())
	}
	var parsed listing
	if err := yaml.Unmarshal(out.Bytes(), &parsed); err != nil {
		t.Fatalf("the listing is not YAML: %v", err)
	}
	return parsed, complaints.String()
}

// odd are machines that look different in a log.
func odd() map[string]Machine {
	out := map[string]Machine{}
	for name, edit := range map[string]func(*Machine){
		"as it comes":     func(*Machine) {},
		"firmware update": func(m *Machine) { *m = m.FirmwareUpdate("2.2.0") },
		"Secure Boot off": func(m *Machine) { m.SecureBoot = false },
		"no keys": func(m *Machine) {
			m.SecureBoot = false
			m.Keys = Keys{PK: []Signature{}, KEK: []Signature{}, DB: []Signature{}, DBX: []Signature{}}
		},
		"hash in db":      func(m *Machine) { m.change(func(k *Keys) { k.DB = append(k.DB, strangeHash(), strangeHash()) }) },
		"owner's key":     func(m *Machine) { m.MOK = []Signature{strangeHash()} },
		"no command line": func(m *Machine) { m.CommandLine = "" },
		"odd characters":  func(m *Machine) { m.CommandLine = `root=/dev/sda ro a.b=(c|d)* e=[f] g+h=$i^ 'j' {k} "q" #l: \m é` },
		"long":            func(m *Machine) { m.CommandLine = strings.Repeat("module.option=value ", 200) },
	} {
		m := NewMachine("fleet", "n1")
		edit(&m)
		out[name] = m
	}
	return out
}

func TestTPM2EventlogAgrees(t *testing.T) {
	machines := odd()
	stub := NewMachine("fleet", "n1")
	stub.Stub = true
	machines["systemd-stub"] = stub
	for name, m := range machines {
		t.Run(name, func(t *testing.T) {
			l := make1(t, m)
			got, complaints := list(t, l)
			// The tool checks the digests that can be computed from the data. It complains without reason of an empty variable, of
			// the PCRs of systemd-stub, and of the credentials in PCR 12, for which it expects a command line.
			if m.Keys.PK == nil && !m.Stub && complaints != "" {
				t.Errorf("tpm2_eventlog complains: %s", complaints)
			}
			if n := strings.Count(complaints, "does not match its payload"); m.Stub && n != 1 {
				t.Errorf("tpm2_eventlog finds %d wrong digests: %s", n, complaints)
			}
			comparePCRs(t, l, got)

			events := l.Events()
			if len(got.Events) != len(events)+1 {
				t.Fatalf("%d events are listed, %d and a header are in the log", len(got.Events), len(events))
			}
			for i, want := range events {
				e := got.Events[i+1]
				if e.Num != i+1 || e.PCR != want.PCR || e.Type != want.Type.String() || len(e.Digests) != len(allBanks) {
					t.Errorf("event %d is listed as %+v", i+1, e)
					continue
				}
				for b, bank := range allBanks {
					if e.Digests[b].Algorithm != bankNames[bank] || e.Digests[b].Digest != hex.EncodeToString(want.Digests[bank]) {
						t.Errorf("event %d has a digest %+v, not %v %x", i+1, e.Digests[b], bank, want.Digests[bank])
					}
				}
			}
		})
	}
}

// A tampered log still parses, and adds up to what Replay says, which is what the verifier compares with the TPM.
func TestTPM2EventlogAgreesOnTampered(t *testing.T) {
	for _, tamper := range Tampers() {
		l, err := tamper.Apply(NewMachine("fleet", "n1"), allBanks)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := list(t, l)
		comparePCRs(t, l, got)
	}
}

func comparePCRs(t *testing.T, l *Log, got listing) {
	t.Helper()
	for _, bank := range l.Banks() {
		want, pcrs := l.Replay(bank), got.PCRs[bankNames[bank]]
		if len(pcrs) != len(want) {
			t.Errorf("%v: %d PCRs are listed, %d replayed", bank, len(pcrs), len(want))
		}
		for pcr, value := range want {
			// Printed as a number, without leading zeros.
			number := pcrs[pcr]
			n, ok := new(big.Int).SetString(number.Value, 0)
			if !ok || n.Cmp(new(big.Int).SetBytes(value)) != 0 {
				t.Errorf("%v: PCR %d is %s, not %x", bank, pcr, number.Value, value)
			}
		}
	}
}

// judge is a part of Keylime's verifier, from the log to the policy's verdict. Keylime loads libefivar to print device paths more nicely,
// which is of no consequence to the policy: without the library it goes without.
const judge = `
import json, sys, types
sys.modules["keylime.mba.elparsing.tpm_bootlog_enrich"] = types.SimpleNamespace(enrich=lambda log: None)
import keylime.mba.elparsing
keylime.mba.elparsing.tpm_bootlog_enrich = sys.modules["keylime.mba.elparsing.tpm_bootlog_enrich"]
from keylime.mba.elchecking import policies, example
from keylime.mba.elparsing import tpm2_tools_elparser
verdicts = []
for case in json.load(open(sys.argv[1])):
    failure, log = tpm2_tools_elparser.parse_binary_bootlog(bytes.fromhex(case["log"]))
    if log is None:
        verdicts.append("cannot be parsed: " + str([e.context for e in failure.events]))
    elif not all(log["boot_aggregates"].values()):
        verdicts.append("has no boot aggregate")
    else:
        verdicts.append(policies.evaluate(case["policy"], json.loads(case["refstate"]), log))
json.dump(verdicts, open(sys.argv[2], "w"))
`

// judgement is one log before Keylime.
type judgement struct {
	Log      string `json:"log"` // hex
	RefState string `json:"refstate"`
	Policy   string `json:"policy"`
}

// keylime returns for each case why the policy rejects the log, empty if it accepts.
func keylime(t *testing.T, cases []judgement) []string {
	t.Helper()
	if _, err := exec.LookPath("tpm2_eventlog"); err != nil {
		t.Skip("tpm2_eventlog is missing: apt install tpm2-tools")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	pythons, err := filepath.Glob(filepath.Join(cache, "keylab", "keylime", "*", "venv", "bin", "python"))
	if err != nil || len(pythons) == 0 {
		t.Skip("Keylime is not installed: make e2e")
	}
	in, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "verdicts")
	cmd := exec.CommandContext(t.Context(), pythons[len(pythons)-1], write(t, "judge.py", []byte(judge)), write(t, "cases", in), out)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("Keylime's verdict: %v: %s", err, text)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var verdicts []string
	if err := json.Unmarshal(data, &verdicts); err != nil || len(verdicts) != len(cases) {
		t.Fatalf("%d verdicts for %d cases: %v", len(verdicts), len(cases), err)
	}
	return verdicts
}

func refStateOf(t *testing.T, m Machine) string {
	t.Helper()
	ref, err := make1(t, m).RefState()
	if err != nil {
		t.Fatal(err)
	}
	return string(ref)
}

func TestKeylimeAccepts(t *testing.T) {
	var names []string
	var cases []judgement
	add := func(name string, m Machine, ref, policy string) {
		names = append(names, name)
		cases = append(cases, judgement{hex.EncodeToString(make1(t, m).Bytes()), ref, policy})
	}
	for name, m := range odd() {
		add(name, m, refStateOf(t, m), "example")
	}
	fleet := refStateOf(t, NewMachine("fleet", "n1"))
	add("another node of the fleet", NewMachine("fleet", "n2"), fleet, "example")
	stub := NewMachine("fleet", "n1")
	stub.Stub = true
	add("systemd-stub", stub, fleet, "accept-all")
	for i, why := range keylime(t, cases) {
		if why != "" {
			t.Errorf("%s: rejected by %s: %s", names[i], cases[i].Policy, why)
		}
	}
}

func TestKeylimeRejects(t *testing.T) {
	m := NewMachine("fleet", "n1")
	ref := refStateOf(t, m)
	var cases []judgement
	tampers := Tampers()
	for _, tamper := range tampers {
		l, err := tamper.Apply(m, allBanks)
		if err != nil {
			t.Fatal(err)
		}
		cases = append(cases, judgement{hex.EncodeToString(l.Bytes()), ref, "example"})
	}
	m.Stub = true
	cases = append(cases, judgement{hex.EncodeToString(make1(t, m).Bytes()), ref, "example"})
	verdicts := keylime(t, cases)
	for i, tamper := range tampers {
		if (verdicts[i] != "") != tamper.BreaksRefState {
			t.Errorf("%s: BreaksRefState is %v, but Keylime says: %q", tamper.Name, tamper.BreaksRefState, verdicts[i])
		}
	}
	if last := verdicts[len(verdicts)-1]; !strings.Contains(last, "unexpected") {
		t.Errorf("systemd-stub: Keylime says: %q", last)
	}
}

func TestNoRefState(t *testing.T) {
	for name, edit := range map[string]func(*Machine){
		"systemd-stub":  func(m *Machine) { m.Stub = true },
		"kernel's name": func(m *Machine) { m.Kernel.Path = "/boot/bzImage" },
		"grub's folder": func(m *Machine) { m.Kernel.Path = "/boot/grub/vmlinuz" },
		"initrd's name": func(m *Machine) { m.Initrd.Path = "/boot/dracut.img" },
		"empty dbx":     func(m *Machine) { m.Keys.DBX = []Signature{} },
	} {
		m := NewMachine("fleet", "n1")
		edit(&m)
		if ref, err := make1(t, m).RefState(); !errors.Is(err, ErrNoRefState) {
			t.Errorf("%s: %s, %v", name, ref, err)
		}
	}
	if ref, err := make1(t, NewMachine("fleet", "n1"), crypto.SHA384).RefState(); !errors.Is(err, ErrNoRefState) {
		t.Errorf("SHA-384 alone: %s, %v", ref, err)
	}
}

func TestRefStatesOfAFleetAreEqual(t *testing.T) {
	if a, b := refStateOf(t, NewMachine("f", "n1")), refStateOf(t, NewMachine("f", "n2")); a != b {
		t.Errorf("%s\n\nand\n\n%s", a, b)
	}
}
