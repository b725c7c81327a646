package bootlog

import (
	"crypto"
	_ "crypto/sha1"   // banks may have it,
	_ "crypto/sha256" // and it,
	_ "crypto/sha512" // and SHA-384 and SHA-512
	"errors"
	"fmt"
	"maps"
	"slices"
)

// EventType is a TCG_EVENTTYPE, PFP section 10.4.1.
type EventType uint32

// The event types that occur in logs of this package.
const (
	NoAction                EventType = 0x00000003
	Separator               EventType = 0x00000004
	EventTag                EventType = 0x00000006
	SCRTMVersion            EventType = 0x00000008
	PlatformConfigFlags     EventType = 0x0000000a
	IPL                     EventType = 0x0000000d
	VariableDriverConfig    EventType = 0x80000001
	VariableBoot            EventType = 0x80000002
	BootServicesApplication EventType = 0x80000003
	BootServicesDriver      EventType = 0x80000004
	GPTEvent                EventType = 0x80000006
	EFIAction               EventType = 0x80000007
	FirmwareBlob2           EventType = 0x8000000a
	VariableAuthority       EventType = 0x800000e0
)

var eventTypeNames = map[EventType]string{
	NoAction:                "EV_NO_ACTION",
	Separator:               "EV_SEPARATOR",
	EventTag:                "EV_EVENT_TAG",
	SCRTMVersion:            "EV_S_CRTM_VERSION",
	PlatformConfigFlags:     "EV_PLATFORM_CONFIG_FLAGS",
	IPL:                     "EV_IPL",
	VariableDriverConfig:    "EV_EFI_VARIABLE_DRIVER_CONFIG",
	VariableBoot:            "EV_EFI_VARIABLE_BOOT",
	BootServicesApplication: "EV_EFI_BOOT_SERVICES_APPLICATION",
	BootServicesDriver:      "EV_EFI_BOOT_SERVICES_DRIVER",
	GPTEvent:                "EV_EFI_GPT_EVENT",
	EFIAction:               "EV_EFI_ACTION",
	FirmwareBlob2:           "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
	VariableAuthority:       "EV_EFI_VARIABLE_AUTHORITY",
}

// String is the name in the specification, or the number in hex.
func (t EventType) String() string {
	if n, ok := eventTypeNames[t]; ok {
		return n
	}
	return fmt.Sprintf("EventType(%#08x)", uint32(t))
}

// Digests are one digest per bank, of the bank's size.
type Digests map[crypto.Hash][]byte

// Event is one TCG_PCR_EVENT2, PFP section 10.2.2.
type Event struct {
	PCR     int
	Type    EventType
	Digests Digests
	// Data describes what was measured. Whether the digest is over it depends on the type, PFP section 10.4.1.
	Data []byte
}

// Extension is one TPM2_PCR_Extend: TPM 2.0 Library part 3, section 22.2.
type Extension struct {
	PCR     int
	Digests Digests
}

// Log is what one boot left: the records in memory, and what the TPM was extended with. Read-only once made; values returned are copies.
type Log struct {
	machine    Machine // complete
	banks      []crypto.Hash
	events     []Event
	extensions []Extension
}

// algorithms are the TPM_ALG_IDs of the banks a log may have, TCG Algorithm Registry.
var algorithms = map[crypto.Hash]uint16{crypto.SHA1: 0x0004, crypto.SHA256: 0x000b, crypto.SHA384: 0x000c, crypto.SHA512: 0x000d}

func checkBanks(banks []crypto.Hash) error {
	if len(banks) == 0 {
		return errors.New("bootlog: no PCR bank is given; SHA-256 is what Keylime needs")
	}
	for i, b := range banks {
		if algorithms[b] == 0 {
			return fmt.Errorf("bootlog: there is no PCR bank for %v; SHA-1, SHA-256, SHA-384 and SHA-512 are known", b)
		}
		if slices.Contains(banks[:i], b) {
			return fmt.Errorf("bootlog: bank %v is given twice", b)
		}
	}
	return nil
}

// Banks are the PCR banks, in the order of the digests of a record.
func (l *Log) Banks() []crypto.Hash { return slices.Clone(l.banks) }

// Events are the records of the log without its first: event i has number i+1 in listings of tpm2_eventlog, where 0 is the header.
func (l *Log) Events() []Event {
	out := make([]Event, len(l.events))
	for i, e := range l.events {
		out[i] = e.clone()
	}
	return out
}

func (e Event) clone() Event {
	e.Digests, e.Data = e.Digests.clone(), slices.Clone(e.Data)
	return e
}

func (d Digests) clone() Digests {
	out := make(Digests, len(d))
	for h, v := range d {
		out[h] = slices.Clone(v)
	}
	return out
}

// Extensions are the extends that the boot makes to the TPM, in order, starting from PCRs that are all zero.
func (l *Log) Extensions() []Extension {
	out := make([]Extension, len(l.extensions))
	for i, e := range l.extensions {
		out[i] = Extension{e.PCR, e.Digests.clone()}
	}
	return out
}

// Replay is what a verifier computes from the log: the value of each PCR with an event. Other PCRs are all zero, or all ones for 17 to 22.
// It is nil for a bank that the log does not have.
func (l *Log) Replay(bank crypto.Hash) map[int][]byte {
	steps := make([]Extension, 0, len(l.events))
	for _, e := range l.events {
		if e.Type != NoAction {
			steps = append(steps, Extension{e.PCR, e.Digests})
		}
	}
	return l.replay(bank, steps)
}

// PCRs is what the TPM holds after the boot: the value of each PCR that was extended. Nil for a bank that the log does not have.
func (l *Log) PCRs(bank crypto.Hash) map[int][]byte { return l.replay(bank, l.extensions) }

func (l *Log) replay(bank crypto.Hash, steps []Extension) map[int][]byte {
	if !slices.Contains(l.banks, bank) {
		return nil
	}
	pcrs := map[int][]byte{}
	for _, s := range steps {
		old := pcrs[s.PCR]
		if old == nil {
			old = make([]byte, bank.Size())
		}
		pcrs[s.PCR] = digest(bank, append(slices.Clone(old), s.Digests[bank]...))
	}
	return pcrs
}

// Mismatched are the PCRs, ascending, that the log does not explain in at least one bank: a verifier that replays must find them.
func (l *Log) Mismatched() []int {
	bad := map[int]bool{}
	for _, bank := range l.banks {
		log, tpm := l.Replay(bank), l.PCRs(bank)
		for pcr := range 24 {
			if !slices.Equal(log[pcr], tpm[pcr]) {
				bad[pcr] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(bad))
}

// Bytes is the log as the kernel shows it in /sys/kernel/security/tpm0/binary_bios_measurements.
func (l *Log) Bytes() []byte {
	// TCG_EfiSpecIdEvent, PFP section 10.4.5: client platform, version 2.0 of the family, UINTN of 64 bits.
	id := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0)
	id = append(id, 0, 2, 105, 2)
	id = le.AppendUint32(id, uint32(len(l.banks)))
	for _, b := range l.banks {
		id = le.AppendUint16(id, algorithms[b])
		id = le.AppendUint16(id, uint16(b.Size()))
	}
	id = append(id, 0) // no vendor information

	// TCG_PCClientPCREvent, PFP section 10.2.1: SHA-1 format, digest zero.
	out := le.AppendUint32(le.AppendUint32(nil, 0), uint32(NoAction))
	out = append(out, make([]byte, crypto.SHA1.Size())...)
	out = le.AppendUint32(out, uint32(len(id)))
	out = append(out, id...)

	for _, e := range l.events {
		out = le.AppendUint32(out, uint32(e.PCR))
		out = le.AppendUint32(out, uint32(e.Type))
		out = le.AppendUint32(out, uint32(len(l.banks)))
		for _, b := range l.banks {
			out = le.AppendUint16(out, algorithms[b])
			out = append(out, e.Digests[b]...)
		}
		out = le.AppendUint32(out, uint32(len(e.Data)))
		out = append(out, e.Data...)
	}
	return out
}
