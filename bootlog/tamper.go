package bootlog

import (
	"crypto"
	"fmt"
	"slices"
	"strings"
)

// Tamper is one way in which a boot is not what it should be. Get them from [Tampers] or [TamperNamed].
type Tamper struct {
	Name        string // lower case with hyphens, unique
	Description string // one sentence: what somebody did

	// PCRs are those, ascending, whose values in the TPM differ from an untouched boot's; nil if the TPM holds what it always holds.
	// They are those of a machine from [NewMachine].
	PCRs []int
	// BreaksReplay is whether the log no longer explains the PCRs, which everybody sees who replays it.
	BreaksReplay bool
	// BreaksRefState is whether Keylime's policy "example" rejects the log by the reference state of the untouched machine.
	BreaksRefState bool

	machine func(*Machine) // another boot, honestly logged
	log     func(*Log)     // then a change of what was logged or extended
}

// Apply boots the machine with the tamper. The errors are those of [Make], and that the log has nothing to change: Machine.Stub
// moves the command line out of reach of those that rewrite it.
func (t Tamper) Apply(m Machine, banks []crypto.Hash) (*Log, error) {
	original := m
	if t.machine != nil {
		t.machine(&m)
	}
	l, err := Make(m, banks)
	if err != nil {
		return nil, err
	}
	if t.machine != nil && t.log != nil {
		// The log is rewritten towards what the machine should have been.
		if l.machine, err = original.complete(); err != nil {
			return nil, err
		}
	}
	if t.log != nil {
		before := string(l.Bytes())
		extended := len(l.extensions)
		t.log(l)
		if before == string(l.Bytes()) && extended == len(l.extensions) {
			return nil, fmt.Errorf("bootlog: tamper %s finds nothing to change in the log of machine %q", t.Name, m.Node)
		}
	}
	return l, nil
}

// TamperNamed returns the tamper of that name; the error names those there are.
func TamperNamed(name string) (Tamper, error) {
	var names []string
	for _, t := range Tampers() {
		if t.Name == name {
			return t, nil
		}
		names = append(names, t.Name)
	}
	return Tamper{}, fmt.Errorf("bootlog: no tamper is named %q; there are: %s", name, strings.Join(names, ", "))
}

// Tampers are all of them: first other boots that are logged honestly, then logs that lie.
func Tampers() []Tamper {
	return []Tamper{
		{
			Name:        "command-line",
			Description: "The kernel was started with init=/bin/sh and without IMA.",
			PCRs:        []int{8}, BreaksRefState: true,
			machine: func(m *Machine) { m.CommandLine = evilCommandLine(m.CommandLine) },
		},
		{
			Name:        "secure-boot-off",
			Description: "Secure Boot was turned off in the firmware's setup; the same software ran.",
			PCRs:        []int{4, 7}, BreaksRefState: true,
			machine: func(m *Machine) { m.SecureBoot = false },
		},
		{
			Name:        "kernel",
			Description: "Another kernel was started from the same path.",
			PCRs:        []int{4, 9}, BreaksRefState: true,
			machine: func(m *Machine) { m.Kernel = m.Kernel.replaced() },
		},
		{
			Name:        "initrd",
			Description: "The initrd was rebuilt with something added.",
			PCRs:        []int{9}, BreaksRefState: true,
			machine: func(m *Machine) { m.Initrd = m.Initrd.replaced() },
		},
		{
			Name:        "old-shim",
			Description: "A shim with a known hole was put in place of the current one.",
			PCRs:        []int{4}, BreaksRefState: true,
			machine: func(m *Machine) { m.Shim = m.Shim.replaced() },
		},
		{
			Name:        "firmware",
			Description: "Somebody flashed a firmware that is not the maker's.",
			PCRs:        []int{0}, BreaksRefState: true,
			machine: func(m *Machine) { m.Firmware.Version += "-implant" },
		},
		{
			Name:        "db-key",
			Description: "A stranger's hash was added to db: an image of theirs may now start.",
			PCRs:        []int{7}, BreaksRefState: true,
			machine: func(m *Machine) {
				m.change(func(k *Keys) { k.DB = append(slices.Clone(k.DB), strangeHash()) })
			},
		},
		{
			Name:        "dbx-rollback",
			Description: "The last revocation was removed from dbx: a revoked image may start again.",
			PCRs:        []int{7}, BreaksRefState: true,
			machine: func(m *Machine) {
				m.change(func(k *Keys) { k.DBX = slices.Clone(k.DBX[:max(len(k.DBX)-1, 0)]) })
			},
		},
		{
			Name:        "mok",
			Description: "A stranger's hash was enrolled as machine owner key: shim starts an image of theirs.",
			PCRs:        []int{14}, BreaksRefState: true,
			machine: func(m *Machine) { m.MOK = append(slices.Clone(m.MOK), strangeHash()) },
		},
		{
			Name:         "dropped-event",
			Description:  "The record of the kernel's command line was dropped from the log; the TPM was extended with it.",
			BreaksReplay: true, BreaksRefState: true,
			log: func(l *Log) {
				l.events = slices.DeleteFunc(l.events, func(e Event) bool {
					return e.PCR == 8 && strings.HasPrefix(string(e.Data), commandLinePrefix)
				})
			},
		},
		{
			Name:         "dropped-command",
			Description:  "The record of one of GRUB's commands, by which no policy goes, was dropped from the log.",
			BreaksReplay: true,
			log: func(l *Log) {
				if i := slices.IndexFunc(l.events, func(e Event) bool { return e.PCR == 8 }); i >= 0 {
					l.events = slices.Delete(l.events, i, i+1)
				}
			},
		},
		{
			Name:        "not-extended",
			Description: "The firmware logged the shim, but did not extend the TPM with it.",
			PCRs:        []int{4}, BreaksReplay: true,
			log: func(l *Log) {
				shim := l.machine.Shim.authenticode(l.banks[0])
				l.extensions = slices.DeleteFunc(l.extensions, func(e Extension) bool {
					return e.PCR == 4 && slices.Equal(e.Digests[l.banks[0]], shim)
				})
			},
		},
		{
			Name:        "rewritten-event",
			Description: "The kernel was started with init=/bin/sh, and text and digest of the record were made those of the right command line.",
			PCRs:        []int{8}, BreaksReplay: true,
			machine: func(m *Machine) { m.CommandLine = evilCommandLine(m.CommandLine) },
			log:     func(l *Log) { l.rewriteCommandLine(true) },
		},
		{
			Name: "rewritten-text",
			Description: "The kernel was started with init=/bin/sh, and the texts of the records were made those of the right command line, " +
				"under digests left alone: to see it, text and digest must be compared.",
			PCRs:    []int{8},
			machine: func(m *Machine) { m.CommandLine = evilCommandLine(m.CommandLine) },
			log:     func(l *Log) { l.rewriteCommandLine(false) },
		},
	}
}

func evilCommandLine(line string) string {
	line = strings.TrimSpace(strings.ReplaceAll(line, "ima_policy=tcb", ""))
	return strings.TrimSpace(line + " init=/bin/sh")
}

// replaced is an image of the same name and other content.
func (i Image) replaced() Image {
	return Image{Path: i.Path, Version: i.Version + "-replaced", Size: i.Size}
}

func strangeHash() Signature {
	return Signature{Owner: seededUUID("owner", "stranger"), SHA256: derive(crypto.SHA256, "stranger")}
}

// change edits the keys of the machine, made ones included.
func (m *Machine) change(edit func(*Keys)) {
	if c, err := m.complete(); err == nil { // else Make reports it
		m.Keys = c.Keys
	}
	edit(&m.Keys)
}

const commandLinePrefix = "kernel_cmdline: "

// rewriteCommandLine makes the log say that l.machine's command line was used.
func (l *Log) rewriteCommandLine(withDigests bool) {
	line := l.machine.kernelLine()
	for _, r := range []struct{ mark, prefix, text string }{
		{"grub_cmd: linux ", "grub_cmd: ", "linux " + line}, {commandLinePrefix, commandLinePrefix, line},
	} {
		i := slices.IndexFunc(l.events, func(e Event) bool { return e.PCR == 8 && strings.HasPrefix(string(e.Data), r.mark) })
		if i < 0 {
			continue
		}
		l.events[i].Data = []byte(r.prefix + r.text + "\x00")
		if withDigests {
			for _, h := range l.banks {
				l.events[i].Digests[h] = digest(h, []byte(r.text))
			}
		}
	}
}
