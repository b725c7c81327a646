package bootlog

import (
	"crypto"
	"fmt"
	"slices"

	"github.com/google/uuid"
)

// Make boots the machine once and returns what it logged and extended, with digests for the given banks: SHA-1, SHA-256, SHA-384, SHA-512.
// Equal arguments give equal logs. Errors say which field of the machine is wrong, or which bank is unknown or given twice.
func Make(m Machine, banks []crypto.Hash) (*Log, error) {
	if err := checkBanks(banks); err != nil {
		return nil, err
	}
	m, err := m.complete()
	if err != nil {
		return nil, err
	}
	shimCert, err := shimCertificate(m.Shim)
	if err != nil {
		return nil, fmt.Errorf("bootlog: machine %q: %w", m.Node, err)
	}
	b := &boot{m: m, disk: newDisk(m.Node), shimCert: shimCert, log: &Log{machine: m, banks: slices.Clone(banks)}}
	b.firmware()
	b.bootManager()
	b.shim()
	b.grub()
	if m.Stub {
		b.stub()
	} else {
		b.kernel()
	}
	b.exit()
	return b.log, nil
}

// boot is one boot under way. Its methods are its stages, in the order of the log.
type boot struct {
	m        Machine
	disk     disk
	shimCert Signature
	log      *Log
}

// over measures content: the digest of an event is over it.
func (b *boot) over(pcr int, kind EventType, content, data []byte) {
	b.by(pcr, kind, func(h crypto.Hash) []byte { return digest(h, content) }, data)
}

// itself measures the data of the event.
func (b *boot) itself(pcr int, kind EventType, data []byte) { b.over(pcr, kind, data, data) }

// by measures something of which only digests are known.
func (b *boot) by(pcr int, kind EventType, digestOf func(crypto.Hash) []byte, data []byte) {
	d := Digests{}
	for _, h := range b.log.banks {
		d[h] = digestOf(h)
	}
	e := Event{PCR: pcr, Type: kind, Digests: d, Data: data}
	b.log.events = append(b.log.events, e)
	b.log.extensions = append(b.log.extensions, Extension{pcr, d.clone()})
}

// firmwareVolumes are what PCR 0 has of a firmware: the names of its volumes, and where they are in memory.
var firmwareVolumes = []struct {
	name       string
	base, size uint64 // bytes
}{{"PEIFV", 0x820000, 0xe0000}, {"DXEFV", 0x900000, 0xc00000}}

// volumeDigest is the digest of a firmware volume of a version.
func (f Firmware) volumeDigest(h crypto.Hash, volume string) []byte {
	return derive(h, "firmware", f.Vendor, f.Version, volume)
}

// crtm is the data of EV_S_CRTM_VERSION.
func (f Firmware) crtm() []byte { return utf16Z(f.Vendor + " " + f.Version) }

// firmware is what happens before boot options are tried: PFP section 3.3.4.1 (PCR 0), 3.3.4.2 (1), 3.3.4.3 (2) and 3.3.4.8 (7).
func (b *boot) firmware() {
	b.itself(0, SCRTMVersion, b.m.Firmware.crtm())
	for _, v := range firmwareVolumes {
		b.by(0, FirmwareBlob2, func(h crypto.Hash) []byte { return b.m.Firmware.volumeDigest(h, v.name) }, firmwareBlob(v.name, v.base, v.size))
	}

	on := byte(0)
	if b.m.SecureBoot {
		on = 1
	}
	b.itself(7, VariableDriverConfig, variable(guidGlobal, "SecureBoot", []byte{on}))
	b.itself(7, VariableDriverConfig, variable(guidGlobal, "PK", signatureLists(b.m.Keys.PK)))
	b.itself(7, VariableDriverConfig, variable(guidGlobal, "KEK", signatureLists(b.m.Keys.KEK)))
	b.itself(7, VariableDriverConfig, variable(guidDatabase, "db", signatureLists(b.m.Keys.DB)))
	b.itself(7, VariableDriverConfig, variable(guidDatabase, "dbx", signatureLists(b.m.Keys.DBX)))
	b.separator(7)

	// ACPI tables differ between makers, not between the versions of a firmware.
	b.by(1, PlatformConfigFlags, func(h crypto.Hash) []byte { return derive(h, "acpi", b.m.Firmware.Vendor) }, []byte("ACPI DATA"))
	rom := join(nodePCIRoot(), nodePCI(2, 0), nodePCI(0, 0), nodeRange(0x10c00, 0x307ff), nodeEnd())
	b.by(2, BootServicesDriver, func(h crypto.Hash) []byte { return derive(h, "option ROM", b.m.Firmware.Vendor) }, imageLoad(0x7e1f3018, 0x1fc00, rom))
}

// separator ends what firmware measures into a PCR before it boots, PFP section 10.4.1.
func (b *boot) separator(pcr int) { b.itself(pcr, Separator, make([]byte, 4)) }

// bootManager tries the first boot option, which is the disk: PFP section 3.3.4.2 (PCR 1), 3.3.4.5 (4) and 3.3.4.6 (5).
func (b *boot) bootManager() {
	b.itself(1, VariableBoot, variable(guidGlobal, "BootOrder", []byte{1, 0, 0, 0}))
	b.itself(1, VariableBoot, variable(guidGlobal, "Boot0001", loadOption("debian", b.disk.option(b.m.Shim.Path))))
	b.itself(1, VariableBoot, variable(guidGlobal, "Boot0000", loadOption("UEFI NVMe disk", b.disk.whole())))
	b.itself(4, EFIAction, []byte("Calling EFI Application from Boot Option"))
	for pcr := range 7 {
		b.separator(pcr)
	}
	if b.m.SecureBoot {
		b.itself(7, VariableAuthority, variable(guidDatabase, "db", signatureData(*firstCertificate(b.m.Keys.DB))))
	}
	b.itself(5, GPTEvent, b.disk.gpt())
}

// image measures a PE image that is started from the EFI system partition.
func (b *boot) image(i Image, address uint64) {
	b.by(4, BootServicesApplication, i.authenticode, imageLoad(address, i.Size, b.disk.file(i.Path)))
}

// mokList is the content of shim's variable MokListRT: what the owner enrolled, and the certificate built in.
func (m Machine) mokList(shimCert Signature) []byte {
	return signatureLists(append(slices.Clone(m.MOK), shimCert))
}

// sbatLevel is shim's list of revoked generations, of which the newest is said last.
const sbatLevel = "sbat,1,2024010900\nshim,4\ngrub,3\n"

// shim loads GRUB. It measures its own lists into PCR 14 and what it trusts into PCR 7, in the order of shim 15.8.
func (b *boot) shim() {
	b.image(b.m.Shim, 0x7bb78018)
	ipl := func(name string, content []byte) { b.over(14, IPL, content, append([]byte(name), 0)) }
	ipl("MokList", b.m.mokList(b.shimCert))
	ipl("MokListX", signatureLists(b.m.MOKX))
	b.itself(7, VariableAuthority, variable(guidShim, "SbatLevel", []byte(sbatLevel)))
	ipl("MokListTrusted", []byte{1})
	if b.m.SecureBoot {
		b.itself(7, VariableAuthority, variable(guidShim, "Shim", signatureData(b.shimCert)))
	}
	b.image(b.m.GRUB, 0x7b818018)
}

// Names of partitions in GRUB's words.
const (
	grubESP  = "(hd0,gpt1)"
	grubRoot = "(hd0,gpt2)"
)

// command measures a line that GRUB runs or passes on: text is hashed, and logged behind the prefix and with a NUL.
func (b *boot) command(prefix, text string) {
	b.over(8, IPL, []byte(text), append([]byte(prefix+text), 0))
}

// read measures a file that GRUB reads.
func (b *boot) read(device, path string, digestOf func(crypto.Hash) []byte) {
	b.by(9, IPL, digestOf, append([]byte(device+path), 0))
}

// grub is what GRUB does before it loads a kernel: GRUB manual, "Measured Boot".
func (b *boot) grub() {
	config := func(device, path string) {
		b.read(device, path, func(h crypto.Hash) []byte { return derive(h, "file", path, b.m.GRUB.Version) })
	}
	root := b.disk.parts[1].id.String()
	config(grubESP, "/EFI/debian/grub.cfg")
	b.command("grub_cmd: ", "search.fs_label root root")
	b.command("grub_cmd: ", "set prefix="+grubRoot+"/boot/grub")
	b.command("grub_cmd: ", "configfile "+grubRoot+"/boot/grub/grub.cfg")
	config(grubRoot, "/boot/grub/grub.cfg")
	b.command("grub_cmd: ", "load_env")
	config(grubRoot, "/boot/grub/grubenv")
	b.command("grub_cmd: ", "set default=0")
	b.command("grub_cmd: ", "menuentry Debian GNU/Linux --class debian --id gnulinux-"+root)
	b.command("grub_cmd: ", "set timeout=5")
}

// kernelLine is what GRUB measures as the kernel's command line: the path comes first.
func (m Machine) kernelLine() string {
	if m.CommandLine == "" {
		return m.Kernel.Path
	}
	return m.Kernel.Path + " " + m.CommandLine
}

// kernel loads a kernel and an initrd with GRUB. Shim verifies, and thereby measures, the kernel only with Secure Boot.
func (b *boot) kernel() {
	k := b.m.Kernel
	line := b.m.kernelLine()
	b.command("grub_cmd: ", "linux "+line)
	if b.m.SecureBoot {
		b.by(4, BootServicesApplication, k.authenticode, imageLoad(0x79000000, k.Size, nil))
	}
	b.read(grubRoot, k.Path, k.plain)
	b.command(commandLinePrefix, line)
	b.command("grub_cmd: ", "initrd "+b.m.Initrd.Path)
	b.read(grubRoot, b.m.Initrd.Path, b.m.Initrd.plain)
}

// exit hands the machine over to the kernel, PFP section 3.3.4.6.
func (b *boot) exit() {
	b.itself(5, EFIAction, []byte("Exit Boot Services Invocation"))
	b.itself(5, EFIAction, []byte("Exit Boot Services Returned with Success"))
}

// disk is the disk of a machine: blocks of 512 bytes, an EFI system partition and a root partition.
type disk struct {
	id     uuid.UUID
	blocks uint64
	parts  []partition
}

func newDisk(node string) disk {
	const blocks = 256 << 21 // 256 GiB
	return disk{
		id:     seededUUID("disk", node),
		blocks: blocks,
		parts: []partition{
			{guidESP, seededUUID("ESP", node), 2048, 2048 + 1<<20 - 1, "EFI System"},
			{guidLinux, seededUUID("root", node), 2048 + 1<<20, blocks - 2049, "root"},
		},
	}
}

func (d disk) gpt() []byte { return gptData(d.id, d.blocks, d.parts) }

// whole is the device path of the disk.
func (d disk) whole() []byte { return join(nodePCIRoot(), nodePCI(3, 0), nodeNVMe(), nodeEnd()) }

// option is the short device path of a file on the EFI system partition, as boot options have it: UEFI 2.10 section 3.1.2.
func (d disk) option(path string) []byte {
	return join(nodePartition(1, d.parts[0]), nodeFile(path), nodeEnd())
}

// file is the whole device path of a file on the EFI system partition.
func (d disk) file(path string) []byte {
	return join(nodePCIRoot(), nodePCI(3, 0), nodeNVMe(), nodePartition(1, d.parts[0]), nodeFile(path), nodeEnd())
}
