package tpmsim

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

const (
	// nvChunk is how much is read or written at once; TPM_PT_NV_BUFFER_MAX is 1024 or more in both backends.
	nvChunk = 1024
	// maxCertificate is MAX_NV_INDEX_SIZE of both backends.
	maxCertificate = 2048
)

// certificateAttributes are those which the EK Credential Profile wants of a certificate's index: written by the
// platform, readable by anybody.
func certificateAttributes() tpm2.TPMANV {
	return tpm2.TPMANV{
		PPWrite: true, WriteDefine: true,
		PPRead: true, OwnerRead: true, AuthRead: true,
		NoDA: true, PlatformCreate: true,
		NT: tpm2.TPMNTOrdinary,
	}
}

// writeCertificate defines the index anew and fills it. An index whose definition was interrupted before the end of the data
// reads as never written, or is cut short: only NV_Write's success over all of it counts, so that a leftover is removed
// first.
func writeCertificate(ctx context.Context, c transport.TPM, p *ekProfile, der []byte) error {
	if len(der) == 0 || len(der) > maxCertificate {
		return fmt.Errorf("EK certificate of %d bytes; an NV index holds 1 to %d", len(der), maxCertificate)
	}
	if err := removeCertificate(c, p); err != nil {
		return err
	}
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.TPMRHPlatform,
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex:    p.certificate,
			NameAlg:    tpm2.TPMAlgSHA256,
			Attributes: certificateAttributes(),
			DataSize:   uint16(len(der)),
		}),
	}.Execute(c)
	if err != nil {
		return fmt.Errorf("TPM2_NV_DefineSpace of %#x for %d bytes: %w", p.certificate, len(der), err)
	}
	// The first write changes the attributes (TPMA_NV_WRITTEN) and so the name.
	for at := 0; at < len(der); at += nvChunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		name, _, err := nvPublic(c, p.certificate)
		if err != nil {
			return err
		}
		_, err = tpm2.NVWrite{
			AuthHandle: tpm2.TPMRHPlatform,
			NVIndex:    tpm2.NamedHandle{Handle: p.certificate, Name: *name},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: der[at:min(at+nvChunk, len(der))]},
			Offset:     uint16(at),
		}.Execute(c)
		if err != nil {
			return fmt.Errorf("TPM2_NV_Write of %#x at %d: %w", p.certificate, at, err)
		}
	}
	return nil
}

// removeCertificate removes the index; it is no error when there is none.
func removeCertificate(c transport.TPM, p *ekProfile) error {
	name, _, err := nvPublic(c, p.certificate)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil
	} else if err != nil {
		return err
	}
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: tpm2.TPMRHPlatform,
		NVIndex:    tpm2.NamedHandle{Handle: p.certificate, Name: *name},
	}.Execute(c)
	if err != nil {
		return fmt.Errorf("TPM2_NV_UndefineSpace of %#x: %w", p.certificate, err)
	}
	return nil
}

// nvPublic returns the name of an index and the size of its data.
func nvPublic(c transport.TPM, index tpm2.TPMHandle) (*tpm2.TPM2BName, int, error) {
	r, err := tpm2.NVReadPublic{NVIndex: index}.Execute(c)
	if err != nil {
		return nil, 0, fmt.Errorf("TPM2_NV_ReadPublic of %#x: %w", index, err)
	}
	public, err := r.NVPublic.Contents()
	if err != nil {
		return nil, 0, fmt.Errorf("TPM2_NV_ReadPublic of %#x: %w", index, err)
	}
	return &r.NVName, int(public.DataSize), nil
}

func readNV(c transport.TPM, index tpm2.TPMHandle) ([]byte, error) {
	name, size, err := nvPublic(c, index)
	if err != nil {
		return nil, err
	}
	handle := tpm2.NamedHandle{Handle: index, Name: *name}
	data := make([]byte, 0, size)
	for len(data) < size {
		r, err := tpm2.NVRead{
			AuthHandle: handle, // by the index' own, empty, authorization
			NVIndex:    handle,
			Size:       uint16(min(nvChunk, size-len(data))),
			Offset:     uint16(len(data)),
		}.Execute(c)
		if err != nil {
			return nil, fmt.Errorf("TPM2_NV_Read of %#x at %d: %w", index, len(data), err)
		}
		if len(r.Data.Buffer) == 0 {
			return nil, fmt.Errorf("TPM2_NV_Read of %#x at %d of %d: no data", index, len(data), size)
		}
		data = append(data, r.Data.Buffer...)
	}
	return data, nil
}
