package agent

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// errNoIndex means that an NV index is not defined or was never written.
var errNoIndex = errors.New("NV index is not defined")

// nvChunk is a read size every TPM grants (TPM_PT_NV_BUFFER_MAX is at least 512
// by the PC Client Platform TPM Profile).
const nvChunk = 512

// readNV reads a whole NV index with the authorisation its attributes allow.
func readNV(t transport.TPM, index tpm2.TPMHandle) ([]byte, error) {
	answer, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil, fmt.Errorf("0x%08x: %w", index, errNoIndex)
	}
	if err != nil {
		return nil, fmt.Errorf("TPM2_NV_ReadPublic(0x%08x): %w", index, err)
	}
	public, err := answer.NVPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("decoding the public area of NV index 0x%08x: %w", index, err)
	}
	if !public.Attributes.Written {
		return nil, fmt.Errorf("0x%08x was never written: %w", index, errNoIndex)
	}
	named := tpm2.NamedHandle{Handle: index, Name: answer.NVName}
	auth := tpm2.AuthHandle{Handle: index, Name: answer.NVName, Auth: tpm2.PasswordAuth(nil)}
	switch {
	case public.Attributes.AuthRead:
	case public.Attributes.OwnerRead:
		auth = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	case public.Attributes.PPRead:
		auth = tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}
	}
	data := make([]byte, 0, public.DataSize)
	for len(data) < int(public.DataSize) {
		part, err := tpm2.NVRead{
			AuthHandle: auth,
			NVIndex:    named,
			Size:       min(nvChunk, public.DataSize-uint16(len(data))),
			Offset:     uint16(len(data)),
		}.Execute(t)
		if err != nil {
			return nil, fmt.Errorf("TPM2_NV_Read(0x%08x, offset %d of %d): %w", index, len(data), public.DataSize, err)
		}
		if len(part.Data.Buffer) == 0 {
			return nil, fmt.Errorf("TPM2_NV_Read(0x%08x): no data at offset %d of %d", index, len(data), public.DataSize)
		}
		data = append(data, part.Data.Buffer...)
	}
	return data, nil
}
