package bootlog

import (
	"encoding/binary"
	"hash/crc32"
	"strings"
	"unicode/utf16"

	"github.com/google/uuid"
)

// GUIDs of UEFI 2.10: of variables (section 3.3 and 32.4), of signature types (section 32.4.1), of partitions (table 5.7); and of shim.
var (
	guidGlobal   = uuid.MustParse("8be4df61-93ca-11d2-aa0d-00e098032b8c") // EFI_GLOBAL_VARIABLE
	guidDatabase = uuid.MustParse("d719b2cb-3d3a-4596-a3bc-dad00e67656f") // EFI_IMAGE_SECURITY_DATABASE
	guidShim     = uuid.MustParse("605dab50-e046-4300-abb6-3dd810dd8b23") // SHIM_LOCK
	guidX509     = uuid.MustParse("a5c059a1-94e4-4aa7-87b5-ab155c2bf072") // EFI_CERT_X509
	guidSHA256   = uuid.MustParse("c1c41626-504c-4092-aca9-41f936934328") // EFI_CERT_SHA256
	guidESP      = uuid.MustParse("c12a7328-f81f-11d2-ba4b-00a0c93ec93b") // EFI system partition
	guidLinux    = uuid.MustParse("0fc63daf-8483-4772-8e79-3d69d8477de4") // Linux file system
)

var le = binary.LittleEndian

// guid is the 16 bytes of EFI_GUID: the first three fields are little-endian integers, UEFI 2.10 appendix A.
func guid(u uuid.UUID) []byte {
	return []byte{u[3], u[2], u[1], u[0], u[5], u[4], u[7], u[6], u[8], u[9], u[10], u[11], u[12], u[13], u[14], u[15]}
}

// utf16Text is text in UTF-16 without a terminator.
func utf16Text(text string) []byte {
	var out []byte
	for _, c := range utf16.Encode([]rune(text)) {
		out = le.AppendUint16(out, c)
	}
	return out
}

// utf16Z is text in UTF-16 with a terminating NUL.
func utf16Z(text string) []byte { return append(utf16Text(text), 0, 0) }

// variable is UEFI_VARIABLE_DATA, PFP section 10.2.6. The length of the name counts 16-bit units, that of the data bytes.
func variable(space uuid.UUID, name string, data []byte) []byte {
	text := utf16Text(name)
	out := guid(space)
	out = le.AppendUint64(out, uint64(len(text)/2))
	out = le.AppendUint64(out, uint64(len(data)))
	out = append(out, text...)
	return append(out, data...)
}

// signatureData is EFI_SIGNATURE_DATA, UEFI 2.10 section 32.4.1.
func signatureData(s Signature) []byte { return append(guid(s.Owner), s.data()...) }

// signatureLists is a variable of EFI_SIGNATURE_LIST, UEFI 2.10 section 32.4.1. A list has one type and one size, so that each certificate
// has a list for itself while neighbouring hashes share one. Keylime wants those of dbx in exactly one.
func signatureLists(entries []Signature) []byte {
	const header = 16 + 3*4
	var out []byte
	for i := 0; i < len(entries); {
		kind, next := guidX509, i+1
		if entries[i].Certificate == nil {
			kind = guidSHA256
			for next < len(entries) && entries[next].Certificate == nil {
				next++
			}
		}
		size := len(signatureData(entries[i]))
		out = append(out, guid(kind)...)
		out = le.AppendUint32(out, uint32(header+size*(next-i)))
		out = le.AppendUint32(out, 0) // no signature header
		out = le.AppendUint32(out, uint32(size))
		for ; i < next; i++ {
			out = append(out, signatureData(entries[i])...)
		}
	}
	return out
}

// Device path nodes, UEFI 2.10 section 10.3. Each is a type, a subtype, its whole length in 16 bits, and data.
func node(kind, subtype byte, data []byte) []byte {
	return append(le.AppendUint16([]byte{kind, subtype}, uint16(4+len(data))), data...)
}

func join(nodes ...[]byte) []byte {
	var out []byte
	for _, n := range nodes {
		out = append(out, n...)
	}
	return out
}

func nodeEnd() []byte { return node(0x7f, 0xff, nil) }

// nodePCIRoot is PciRoot(0): ACPI with the EISA identifier PNP0A03.
func nodePCIRoot() []byte { return node(2, 1, []byte{0xd0, 0x41, 0x03, 0x0a, 0, 0, 0, 0}) }

func nodePCI(device, function byte) []byte { return node(1, 1, []byte{function, device}) }

// nodeNVMe is the first namespace of an NVMe disk.
func nodeNVMe() []byte { return node(3, 23, append([]byte{1, 0, 0, 0}, make([]byte, 8)...)) }

// nodeRange is a part of an option ROM: first and last offset in bytes.
func nodeRange(first, last uint64) []byte {
	data := le.AppendUint64(make([]byte, 4), first)
	return node(4, 8, le.AppendUint64(data, last))
}

func nodePartition(number uint32, p partition) []byte {
	data := le.AppendUint32(nil, number)
	data = le.AppendUint64(data, p.first)
	data = le.AppendUint64(data, p.last-p.first+1)
	data = append(data, guid(p.id)...)
	return node(4, 1, append(data, 2, 2)) // GPT, identified by GUID
}

func nodeFile(path string) []byte { return node(4, 4, utf16Z(strings.ReplaceAll(path, "/", `\`))) }

// imageLoad is UEFI_IMAGE_LOAD_EVENT, PFP section 10.2.3.
func imageLoad(address, size uint64, path []byte) []byte {
	out := le.AppendUint64(nil, address)
	out = le.AppendUint64(out, size)
	out = le.AppendUint64(out, 0) // linked to no address
	out = le.AppendUint64(out, uint64(len(path)))
	return append(out, path...)
}

// loadOption is EFI_LOAD_OPTION, UEFI 2.10 section 3.1.3, active.
func loadOption(description string, path []byte) []byte {
	out := le.AppendUint32(nil, 1)
	out = le.AppendUint16(out, uint16(len(path)))
	out = append(out, utf16Z(description)...)
	return append(out, path...)
}

// firmwareBlob is UEFI_PLATFORM_FIRMWARE_BLOB2, PFP section 10.2.5; description is ASCII, base and size are bytes.
func firmwareBlob(description string, base, size uint64) []byte {
	out := append([]byte{byte(len(description))}, description...)
	return le.AppendUint64(le.AppendUint64(out, base), size)
}

// taggedEvent is TCG_PCClientTaggedEvent, PFP section 10.4: of EV_EVENT_TAG.
func taggedEvent(id uint32, data []byte) []byte {
	return append(le.AppendUint32(le.AppendUint32(nil, id), uint32(len(data))), data...)
}

// partition is an entry of a GUID partition table; first and last are block numbers, last is included.
type partition struct {
	kind, id    uuid.UUID
	first, last uint64
	name        string
}

// gptData is UEFI_GPT_DATA, PFP section 10.2.6: the header of the table (UEFI 2.10 section 5.3.2), a count, and the entries in use.
// The disk has blocks of 512 bytes and room for 128 partitions, over all of which the header has a CRC.
func gptData(disk uuid.UUID, blocks uint64, parts []partition) []byte {
	const headerSize, slots, slotSize = 92, 128, 128
	entries := make([]byte, 0, slots*slotSize)
	for _, p := range parts {
		e := append(guid(p.kind), guid(p.id)...)
		e = le.AppendUint64(e, p.first)
		e = le.AppendUint64(e, p.last)
		e = le.AppendUint64(e, 0) // attributes
		e = append(e, utf16Text(p.name)...)
		entries = append(entries, append(e, make([]byte, slotSize-len(e))...)...)
	}
	used := len(entries)
	entriesCRC := crc32.ChecksumIEEE(entries[:cap(entries)])

	h := append([]byte("EFI PART"), 0, 0, 1, 0) // revision 1.0
	h = le.AppendUint32(h, headerSize)
	h = le.AppendUint32(h, 0) // its CRC, for which it counts as 0
	h = le.AppendUint32(h, 0)
	for _, block := range []uint64{1, blocks - 1, 34, blocks - 34} { // this header, its copy, first and last usable
		h = le.AppendUint64(h, block)
	}
	h = append(h, guid(disk)...)
	h = le.AppendUint64(h, 2)
	h = le.AppendUint32(h, slots)
	h = le.AppendUint32(h, slotSize)
	h = le.AppendUint32(h, entriesCRC)
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h))

	h = le.AppendUint64(h, uint64(len(parts)))
	return append(h, entries[:used]...)
}
