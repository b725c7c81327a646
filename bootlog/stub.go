package bootlog

import "crypto"

// Tags by which the kernel's own EFI stub marks what it measures into PCR 9: Linux, drivers/firmware/efi/libstub/efistub.h.
const (
	tagInitrd      = 0x8f3b22ec
	tagLoadOptions = 0x8f3b22ed
)

// stubSections are the parts of a unified kernel image that systemd-stub measures, in the order of the UAPI Group's specification UKI.
var stubSections = []string{".linux", ".osrel", ".initrd", ".uname", ".sbat"}

// stub starts a unified kernel image with GRUB's chainloader. systemd-stub measures its sections into PCR 11, the command line and
// credentials into PCR 12, system extensions into PCR 13, and starts the kernel inside, whose EFI stub measures into PCR 9.
// Descriptions are UTF-16 with a NUL, as measured texts are.
func (b *boot) stub() {
	uki, line := b.m.Kernel, b.m.CommandLine
	b.command("grub_cmd: ", "chainloader "+grubESP+uki.Path)
	b.read(grubESP, uki.Path, uki.plain)
	b.image(uki, 0x79000000)

	section := func(name string) func(crypto.Hash) []byte {
		switch name {
		case ".linux":
			return func(h crypto.Hash) []byte { return derive(h, "section", name, uki.Version) }
		case ".initrd":
			return b.m.Initrd.plain
		default:
			return func(h crypto.Hash) []byte { return derive(h, "section", name, uki.Path, uki.Version) }
		}
	}
	for _, name := range stubSections {
		b.over(11, IPL, append([]byte(name), 0), utf16Z(name))
		b.by(11, IPL, section(name), utf16Z(name))
	}
	if line != "" {
		b.itself(12, IPL, utf16Z(line))
	}
	b.by(12, IPL, func(h crypto.Hash) []byte { return derive(h, "credentials", b.m.Fleet) }, utf16Z("Credentials initrd"))
	b.by(13, IPL, func(h crypto.Hash) []byte { return derive(h, "sysext", uki.Version) }, utf16Z("System extension initrd"))

	b.by(4, BootServicesApplication, func(h crypto.Hash) []byte { return derive(h, "authenticode", ".linux", uki.Version) },
		imageLoad(0x76000000, uki.Size/2, nil))
	b.over(9, EventTag, utf16Z(line), taggedEvent(tagLoadOptions, []byte("LOADED_IMAGE::LoadOptions\x00")))
	b.by(9, EventTag, b.m.Initrd.plain, taggedEvent(tagInitrd, []byte("Linux initrd\x00")))
}
