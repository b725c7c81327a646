package control

import "context"

// Measurement asks for what a node has measured, or changes it.
type Measurement struct {
	Kind string `json:"kind"` // one of the kinds below
	Node string `json:"node"`
	// Path is that of a file, for MeasureFile.
	Path string `json:"path,omitempty"`
	// Digest is the file's, sha256: and 64 hexadecimal digits; empty: that which the lab's specification has for the path.
	Digest string `json:"digest,omitempty"`
	// Sign is whose key the file is signed with, for MeasureFile on a node whose list has signatures: SignLab, SignStranger, or none.
	Sign string `json:"sign,omitempty"`
	// Signature is the file's extended attribute security.ima, for MeasureFile. The lab makes it, where Sign asks for one.
	Signature []byte `json:"signature,omitempty"`
	// Tamper is a tamper's name, for TamperBoot.
	Tamper string `json:"tamper,omitempty"`
	// Version is that of a firmware, for UpdateFirmware.
	Version string `json:"version,omitempty"`
}

// What can be asked about measurements.
const (
	ShowList       = "ima-list"        // the IMA list
	MeasureFile    = "ima-add"         // the kernel measures a file
	TamperList     = "ima-tamper-list" // the newest entry is taken out of the list; PCR 10 stays
	TamperPCR      = "ima-tamper-pcr"  // PCR 10 is extended; the list stays
	ShowBoot       = "boot-show"       // the boot log
	TamperBoot     = "boot-tamper"     // reboot once with a tamper
	UpdateFirmware = "boot-firmware"   // reboot with another firmware
)

// Whose key a file can be signed with: the lab's, which the runtime policies have, or one that they do not have.
const (
	SignLab      = "lab"
	SignStranger = "stranger"
)

// Measured is the answer to a Measurement.
type Measured struct {
	Done string   `json:"done,omitempty"` // what was changed
	IMA  *IMAList `json:"ima,omitempty"`  // for ShowList
	Boot *BootLog `json:"boot,omitempty"` // for ShowBoot
}

// IMAList is what a node's kernel measured.
type IMAList struct {
	Entries []IMAEntry `json:"entries"`
	PCR     string     `json:"pcr_10"` // in the TPM's SHA-256 bank, hexadecimal
	Replay  string     `json:"replay"` // what the list adds up to
}

// IMAEntry is one line of an IMA list.
type IMAEntry struct {
	Template string `json:"template"`
	Digest   string `json:"digest"`
	Path     string `json:"path"`
	// Signature is the file's extended attribute security.ima; nil: it is not signed.
	Signature []byte `json:"signature,omitempty"`
	Allowed   bool   `json:"allowed"` // by the files of the specification or by the key for signatures, as the runtime policy has them
}

// BootLog is what a node's firmware measured at its last start.
type BootLog struct {
	Firmware string      `json:"firmware"`         // version
	Tamper   string      `json:"tamper,omitempty"` // with which the log was made
	Events   []BootEvent `json:"events"`
	PCRs     []BootPCR   `json:"pcrs"` // 0 to 9 and 14
}

// BootEvent is one record of a boot log.
type BootEvent struct {
	PCR    int    `json:"pcr"`
	Type   string `json:"type"`   // as in the TCG PC Client Platform Firmware Profile
	Digest string `json:"digest"` // SHA-256, hexadecimal
	Text   string `json:"text,omitempty"`
}

// BootPCR is one PCR of the SHA-256 bank, hexadecimal.
type BootPCR struct {
	PCR    int    `json:"pcr"`
	TPM    string `json:"tpm"`    // what the TPM holds
	Replay string `json:"replay"` // what the log adds up to
}

// Measure asks for what a node has measured, or changes it.
func (c *Client) Measure(ctx context.Context, m Measurement) (a Measured, err error) {
	err = c.call(ctx, "POST", "measure", m, &a)
	return a, err
}
