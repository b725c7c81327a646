package bootlog

import (
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// refState is the input of Keylime's policy "example": keylime/mba/elchecking/example.py.
type refState struct {
	SecureBoot bool             `json:"has_secureboot"`
	Firmware   []refFirmware    `json:"scrtm_and_bios"`
	PK         []refKey         `json:"pk"`
	KEK        []refKey         `json:"kek"`
	DB         []refKey         `json:"db"`
	DBX        []refKey         `json:"dbx"`
	VendorDB   []refKey         `json:"vendor_db"`
	MOK        []refDigest      `json:"mokdig"`
	MOKX       []refDigest      `json:"mokxdig"`
	Kernels    []map[string]any `json:"kernels"`
}

type refFirmware struct {
	SCRTM refDigest   `json:"scrtm"`
	Blobs []refDigest `json:"platform_firmware"`
}

type refKey struct {
	Owner uuid.UUID `json:"SignatureOwner"`
	Data  string    `json:"SignatureData"`
}

type refDigest struct {
	SHA256 string `json:"sha256"`
}

func hex0x(data []byte) string { return "0x" + hex.EncodeToString(data) }

// ErrNoRefState is wrapped by errors of [Log.RefState] for logs that Keylime's policy "example" rejects whatever its reference state.
var ErrNoRefState = errors.New(`policy "example" of Keylime rejects such logs`)

// RefState returns, in JSON, the reference state by which Keylime's measured-boot policy "example" accepts the machine: what
// keylime_tenant takes as --mb_refstate. It describes the machine as it was given to [Make], so that of an untouched machine serves to
// judge a tampered one. All machines of a fleet that boot the same have the same.
//
// It is an error if the log has no SHA-256 bank, by which the policy knows images; if the machine boots with systemd-stub, because the
// policy has no rule for PCR 11 to 13 and for EV_EVENT_TAG; if the policy would not know the kernel or initrd by their paths; and if with
// Secure Boot the content of dbx is not one list of hashes.
func (l *Log) RefState() ([]byte, error) {
	m, h := l.machine, crypto.SHA256
	switch {
	case !slices.Contains(l.banks, h):
		return nil, fmt.Errorf("bootlog: the log has no SHA-256 bank: %w", ErrNoRefState)
	case m.Stub:
		return nil, fmt.Errorf("bootlog: the kernel has systemd-stub, which extends PCR 11 to 13: %w", ErrNoRefState)
	case !strings.Contains(m.Kernel.Path, "/vmlinuz") || taken(m.Kernel.Path):
		return nil, fmt.Errorf("bootlog: kernel %s is not named /vmlinuz*: %w", m.Kernel.Path, ErrNoRefState)
	case !strings.Contains(m.Initrd.Path, "/initrd") && !strings.Contains(m.Initrd.Path, "/initramfs") ||
		taken(m.Initrd.Path) || strings.Contains(m.Initrd.Path, "/vmlinuz"):
		return nil, fmt.Errorf("bootlog: initrd %s is not named /initrd* or /initramfs*: %w", m.Initrd.Path, ErrNoRefState)
	case m.SecureBoot && (len(m.Keys.DBX) == 0 || firstCertificate(m.Keys.DBX) != nil):
		return nil, fmt.Errorf("bootlog: DBX is empty or has certificates: %w", ErrNoRefState)
	}

	shimCert, err := shimCertificate(m.Shim)
	if err != nil {
		return nil, fmt.Errorf("bootlog: machine %q: %w", m.Node, err)
	}
	firmware := refFirmware{SCRTM: refDigest{hex0x(digest(h, m.Firmware.crtm()))}}
	for _, v := range firmwareVolumes {
		firmware.Blobs = append(firmware.Blobs, refDigest{hex0x(m.Firmware.volumeDigest(h, v.name))})
	}
	kernel := map[string]any{
		"shim_authcode_sha256": hex0x(m.Shim.authenticode(h)),
		"grub_authcode_sha256": hex0x(m.GRUB.authenticode(h)),
		"initrd_plain_sha256":  hex0x(m.Initrd.plain(h)),
		"kernel_cmdline":       regexp.QuoteMeta(m.kernelLine()),
	}
	if m.SecureBoot {
		kernel["kernel_authcode_sha256"] = hex0x(m.Kernel.authenticode(h))
	} else {
		// Without Secure Boot nothing verifies the kernel, and the policy knows it as the file that GRUB read.
		kernel["vmlinuz_plain_sha256"] = hex0x(m.Kernel.plain(h))
	}
	return json.MarshalIndent(refState{
		SecureBoot: m.SecureBoot,
		Firmware:   []refFirmware{firmware},
		PK:         refKeys(m.Keys.PK),
		KEK:        refKeys(m.Keys.KEK),
		DB:         refKeys(m.Keys.DB),
		DBX:        refKeys(m.Keys.DBX),
		VendorDB:   []refKey{},
		MOK:        []refDigest{{hex0x(digest(h, m.mokList(shimCert)))}},
		MOKX:       []refDigest{{hex0x(digest(h, signatureLists(m.MOKX)))}},
		Kernels:    []map[string]any{kernel},
	}, "", "  ")
}

// taken says whether the policy takes the file for one of GRUB's, which it looks for before kernels and initrds.
func taken(path string) bool {
	return strings.Contains(path, "/grub") || strings.Contains(path, "/loader/entries")
}

func refKeys(list []Signature) []refKey {
	out := []refKey{}
	for _, s := range list {
		out = append(out, refKey{s.Owner, hex0x(s.data())})
	}
	return out
}
