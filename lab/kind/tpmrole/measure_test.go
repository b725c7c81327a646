package tpmrole

import (
	"bytes"
	"crypto"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"keylab.dev/keylab/ima"
	"keylab.dev/keylab/lab/control"
	"keylab.dev/keylab/lab/measure"
	"keylab.dev/keylab/lab/plan"
)

// startMeasured starts the TPM of a node that measures files and its boot.
func startMeasured(t *testing.T, dir string) *testTPM {
	t.Helper()
	state := dir + "/measured"
	if err := os.MkdirAll(state, 0o700); err != nil {
		t.Fatal(err)
	}
	return startTPM(t, dir, func(c *Config) {
		c.Lab, c.MeasuredDir = "lab", state
		c.IMA = &plan.IMA{Template: "ima-ng", Files: []plan.IMAFile{{Path: "/sbin/init", Digest: "sha256:" + strings.Repeat("ab", 32)}}}
		c.MeasuredBoot = &plan.MeasuredBoot{FirmwareVersion: "1.0", SecureBoot: true, CommandLine: "quiet"}
	})
}

func (p *testTPM) measure(m control.Measurement) control.Measured {
	p.t.Helper()
	a, err := p.Measure(p.t.Context(), m)
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

// explained checks that the list which pods see explains the TPM's PCR 10, and returns its paths.
func (p *testTPM) explained() string {
	p.t.Helper()
	text, err := os.ReadFile(p.socket(measure.ListFile))
	if err != nil {
		p.t.Fatal(err)
	}
	list, err := ima.Parse(bytes.NewReader(text))
	if err != nil {
		p.t.Fatal(err)
	}
	replay, err := list.Replay(crypto.SHA256)
	if err != nil {
		p.t.Fatal(err)
	}
	values, err := p.PCRs(p.t.Context(), 10, 4)
	if err != nil {
		p.t.Fatal(err)
	}
	if len(values) != 2 || !bytes.Equal(values[10], replay) || bytes.Equal(values[4], make([]byte, 32)) {
		p.t.Errorf("PCRs %x; the list that pods see gives %x", values, replay)
	}
	var paths []string
	for _, e := range list.Entries() {
		paths = append(paths, e.Path)
	}
	return strings.Join(paths, " ")
}

// A node that is switched on with its TPM measures its boot before anybody has the TPM; pods see both logs, which go on with what is measured and begin
// anew with the next boot, however that comes about.
func TestMeasures(t *testing.T) {
	dir := shortDir(t)
	p := startMeasured(t, dir)
	const booted = "boot_aggregate /sbin/init"
	if got := p.explained(); got != booted {
		t.Errorf("after the start: %s", got)
	}
	for _, file := range []string{measure.ListFile, measure.LogFile} {
		if info, err := os.Stat(p.socket(file)); err != nil || info.Mode().Perm() != 0o644 || info.Size() == 0 {
			t.Errorf("%s: %v, %v; want mode 0644", file, info, err)
		}
	}
	done := p.measure(control.Measurement{Kind: control.MeasureFile, Path: "/tmp/x", Digest: "sha256:" + strings.Repeat("cd", 32)}).Done
	if got := p.explained(); got != booted+" /tmp/x" || !strings.Contains(done, "does not allow it") {
		t.Errorf("%s; the list has %s", done, got)
	}
	for _, orderly := range []bool{true, false} {
		if err := p.Reboot(t.Context(), orderly); err != nil {
			t.Fatal(err)
		}
		if got := p.explained(); got != booted {
			t.Errorf("after a reboot (orderly %t): %s", orderly, got)
		}
	}
	if _, err := p.Measure(t.Context(), control.Measurement{Kind: control.MeasureFile, Path: "/nowhere"}); err == nil ||
		err.Error() != "node-1: /nowhere is not among the files of the lab's specification: give its digest, or a file" {
		t.Errorf("a mistake: %v", err)
	}
}

// What the next boot shall be, and the firmware, outlast the container: a node's reboot is that container's restart.
func TestMeasuredOverRestart(t *testing.T) {
	dir := shortDir(t)
	p := startMeasured(t, dir)
	state := func() string {
		t.Helper()
		s, err := p.RefState(t.Context())
		if err != nil || !json.Valid(s) || !strings.Contains(string(s), "quiet") {
			t.Fatalf("the reference state: %s, %v", s, err)
		}
		return string(s)
	}
	boot := func() *control.BootLog { return p.measure(control.Measurement{Kind: control.ShowBoot}).Boot }
	honest := state()
	p.measure(control.Measurement{Kind: control.TamperBoot, Tamper: "command-line"})
	p.measure(control.Measurement{Kind: control.UpdateFirmware, Version: "2.0"})
	if b := boot(); b.Tamper != "" || b.Firmware != "1.0" {
		t.Errorf("before the next boot: %+v", b)
	}
	for _, want := range []string{"command-line", ""} { // of one boot alone
		p.stop()
		p = startMeasured(t, dir)
		if b := boot(); b.Tamper != want || b.Firmware != "2.0" {
			t.Errorf("firmware %s, tamper %q after a restart; want 2.0 and %q", b.Firmware, b.Tamper, want)
		}
	}
	if state() == honest {
		t.Error("the reference state is that of the old firmware")
	}
}

// A node that measures nothing has no logs, and its TPM's PCRs can be read all the same.
func TestMeasuresNothing(t *testing.T) {
	p := startTPM(t, shortDir(t), nil)
	values, err := p.PCRs(t.Context(), 10)
	if err != nil || !bytes.Equal(values[10], make([]byte, 32)) {
		t.Errorf("PCR 10: %x, %v", values, err)
	}
	if _, err := os.Stat(p.socket(measure.ListFile)); err == nil {
		t.Error("there is a list")
	}
	if _, err := p.Measure(t.Context(), control.Measurement{Kind: control.ShowList}); err == nil || err.Error() != "node-1 measures no files: set ima.enabled: true in the lab's file" {
		t.Errorf("%v", err)
	}
}
