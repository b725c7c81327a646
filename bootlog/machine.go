package bootlog

import (
	"crypto"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Machine is what a node is made of and what it boots. [NewMachine] gives a complete one to change; the zero value is refused by [Make].
type Machine struct {
	// Fleet seeds what machines of one purchase have in common: the Secure Boot keys that are not given.
	Fleet string
	// Node seeds what only this machine has: disk and partition GUIDs. They go into PCR 1 (boot entries) and 5 (partition table), and
	// into nothing a reference state names.
	Node string

	Firmware Firmware
	// SecureBoot is whether signatures are enforced, UEFI 2.10 section 32.3.
	SecureBoot bool
	// Keys are the Secure Boot variables.
	Keys Keys
	// MOK are machine owner keys enrolled in shim; shim's own certificate is always in its list. Nil is none.
	MOK []Signature
	// MOKX are what shim refuses. Nil is shim's placeholder, a hash of zeros.
	MOKX []Signature

	Shim, GRUB, Kernel, Initrd Image
	// CommandLine is what the kernel gets, without the kernel's path. Printable UTF-8.
	CommandLine string

	// Stub makes the kernel a unified kernel image with systemd-stub, which GRUB chain-loads: PCR 8 and 9 then have no command line and
	// no vmlinuz, and PCR 11 to 13 are extended.
	Stub bool
}

// Firmware is the UEFI implementation.
type Firmware struct {
	Vendor  string
	Version string // any text; EV_S_CRTM_VERSION has it in UTF-16
}

// Image is a file that is loaded during boot.
type Image struct {
	// Path is absolute, with slashes: on the EFI system partition for shim and GRUB and for a kernel with Stub, else on the root
	// partition. Keylime knows a kernel by "/vmlinuz" and an initrd by "/initrd" or "/initramfs" in it.
	Path    string
	Version string
	Size    uint64 // bytes in memory

	// Authenticode and Plain are digests given by hash: over the PE image without its signature, and over the file as it is. What is
	// not given is derived from Path and Version. GRUB measures the files it reads by Plain, firmware and shim measure by Authenticode.
	Authenticode, Plain map[crypto.Hash][]byte
}

// Keys are the contents of the Secure Boot variables, UEFI 2.10 section 32.4. A nil list is made from the machine's Fleet; a list that is
// empty and not nil is an empty variable, which only a machine without Secure Boot may have for PK, KEK and DB.
type Keys struct {
	PK, KEK, DB, DBX []Signature
}

// NewMachine returns a machine with Secure Boot on that boots Debian through shim and GRUB. Machines of one fleet differ only in their
// disks: one reference state fits all.
func NewMachine(fleet, node string) Machine {
	return Machine{
		Fleet:       fleet,
		Node:        node,
		Firmware:    Firmware{Vendor: "Keylab", Version: "2.1.0"},
		SecureBoot:  true,
		Shim:        Image{Path: "/EFI/debian/shimx64.efi", Version: "15.8-1", Size: 966_664},
		GRUB:        Image{Path: "/EFI/debian/grubx64.efi", Version: "2.06-13", Size: 2_656_136},
		Kernel:      Image{Path: "/boot/vmlinuz-6.1.0-21-amd64", Version: "6.1.90-1", Size: 8_231_872},
		Initrd:      Image{Path: "/boot/initrd.img-6.1.0-21-amd64", Version: "6.1.90-1", Size: 41_287_680},
		CommandLine: "root=LABEL=root ro quiet ima_policy=tcb",
	}
}

// FirmwareUpdate returns the machine after an update of its firmware to version: PCR 0 changes, and PCR 1 and 2 stay.
func (m Machine) FirmwareUpdate(version string) Machine {
	m.Firmware.Version = version
	return m
}

// complete checks the machine and returns it with all lists of keys filled in.
func (m Machine) complete() (Machine, error) {
	var errs []error
	for _, f := range []struct{ name, text string }{
		{"Firmware.Vendor", m.Firmware.Vendor}, {"Firmware.Version", m.Firmware.Version}, {"CommandLine", m.CommandLine},
	} {
		if f.text == "" && f.name != "CommandLine" {
			errs = append(errs, fmt.Errorf("%s is empty; start from NewMachine", f.name))
		}
		errs = append(errs, printable(f.name, f.text))
	}
	for _, i := range []struct {
		name  string
		image Image
	}{{"Shim", m.Shim}, {"GRUB", m.GRUB}, {"Kernel", m.Kernel}, {"Initrd", m.Initrd}} {
		errs = append(errs, i.image.check(i.name))
	}
	if err := errors.Join(errs...); err != nil {
		return Machine{}, fmt.Errorf("bootlog: machine %q: %w", m.Node, err)
	}

	made, err := madeKeys(m.Fleet)
	if err != nil {
		return Machine{}, fmt.Errorf("bootlog: machine %q: %w", m.Node, err)
	}
	// Copies: what the caller does to the machine later is not to change a log.
	fill := func(list *[]Signature, from []Signature) {
		if *list == nil {
			*list = from
		}
		*list = slices.Clone(*list)
	}
	fill(&m.Keys.PK, made.PK)
	fill(&m.Keys.KEK, made.KEK)
	fill(&m.Keys.DB, made.DB)
	fill(&m.Keys.DBX, made.DBX)
	fill(&m.MOK, []Signature{})
	fill(&m.MOKX, []Signature{{Owner: guidShim, SHA256: make([]byte, crypto.SHA256.Size())}})
	for _, i := range []*Image{&m.Shim, &m.GRUB, &m.Kernel, &m.Initrd} {
		i.Authenticode, i.Plain = maps.Clone(i.Authenticode), maps.Clone(i.Plain)
	}
	for _, l := range []struct {
		name string
		list []Signature
	}{{"PK", m.Keys.PK}, {"KEK", m.Keys.KEK}, {"DB", m.Keys.DB}, {"DBX", m.Keys.DBX}, {"MOK", m.MOK}, {"MOKX", m.MOKX}} {
		for i, s := range l.list {
			if err := s.check(); err != nil {
				errs = append(errs, fmt.Errorf("%s[%d]: %w", l.name, i, err))
			}
		}
	}
	if m.SecureBoot && (len(m.Keys.PK) == 0 || len(m.Keys.KEK) == 0 || firstCertificate(m.Keys.DB) == nil) {
		errs = append(errs, errors.New("SecureBoot needs a PK, a KEK and a certificate in DB: without a PK firmware is in setup mode"))
	}
	if err := errors.Join(errs...); err != nil {
		return Machine{}, fmt.Errorf("bootlog: machine %q: %w", m.Node, err)
	}
	return m, nil
}

func (i Image) check(name string) error {
	if !strings.HasPrefix(i.Path, "/") || strings.Contains(i.Path, " ") {
		return fmt.Errorf("%s.Path is %q, not an absolute path without spaces", name, i.Path)
	}
	if err := printable(name+".Path", i.Path); err != nil {
		return err
	}
	for h, d := range i.Authenticode {
		if len(d) != h.Size() {
			return fmt.Errorf("%s.Authenticode: the %v digest has %d bytes, not %d", name, h, len(d), h.Size())
		}
	}
	for h, d := range i.Plain {
		if len(d) != h.Size() {
			return fmt.Errorf("%s.Plain: the %v digest has %d bytes, not %d", name, h, len(d), h.Size())
		}
	}
	return nil
}

// printable refuses what would break lines in logs, in GRUB's event texts and in the YAML of tpm2_eventlog.
func printable(name, text string) error {
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%s is %q, which is not printable UTF-8", name, text)
	}
	return nil
}

// authenticode is the digest by which the firmware and shim measure the image.
func (i Image) authenticode(h crypto.Hash) []byte {
	if d := i.Authenticode[h]; d != nil {
		return d
	}
	return derive(h, "authenticode", i.Path, i.Version)
}

// plain is the digest by which GRUB measures the file.
func (i Image) plain(h crypto.Hash) []byte {
	if d := i.Plain[h]; d != nil {
		return d
	}
	return derive(h, "plain", i.Path, i.Version)
}
