//go:build cgo

// Package reftpm gives access to what go-tpm-tools' simulator (Microsoft's TPM 2.0 reference implementation, linked into
// this program) leaves out: its NV memory, and a power cycle without a shutdown. There is one such TPM per process.
package reftpm

/*
#include <stdbool.h>
#include <stddef.h>

// Defined by the C code of github.com/google/go-tpm-tools/simulator/internal, whose headers cannot be reached from another
// module. They are weak here so that this package also links by itself, as cgo does on trial.
__attribute__((weak)) extern void _plat__NvMemoryRead(unsigned int start, unsigned int size, void *data);
__attribute__((weak)) extern bool _plat__NvMemoryWrite(unsigned int start, unsigned int size, void *data);
__attribute__((weak)) extern void _plat__Reset(bool forceManufacture);
__attribute__((weak)) extern void sync_seeds(void);

static bool linked(void) {
	return _plat__NvMemoryRead != NULL && _plat__NvMemoryWrite != NULL && _plat__Reset != NULL && sync_seeds != NULL;
}
static void nv_read(void *data, unsigned int size) { _plat__NvMemoryRead(0, size, data); }
static bool nv_write(void *data, unsigned int size) { return _plat__NvMemoryWrite(0, size, data); }
// The bounds check of a write is the only thing that tells how large the memory is.
static bool nv_has(unsigned int size) { char none; return _plat__NvMemoryWrite(size, 0, &none); }
static void power_cycle(void) { _plat__Reset(false); }
static void keep_seeds(void) { sync_seeds(); }
*/
import "C"

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"

	"github.com/google/go-tpm-tools/simulator"
)

// nvSize is NV_MEMORY_SIZE of the reference implementation in bytes.
const nvSize = 16384

// shutdownClear is TPM2_Shutdown(TPM_SU_CLEAR).
var shutdownClear = []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x45, 0, 0}

// TPM is the one TPM of this process, powered on; the next command must be TPM2_Startup.
type TPM struct {
	sim *simulator.Simulator
}

// Check tells whether the linked simulator is the one that this package knows.
func Check() error {
	if !bool(C.linked()) {
		return errors.New("the linked go-tpm-tools simulator lacks functions that are needed to keep its NV memory")
	}
	if !bool(C.nv_has(nvSize)) || bool(C.nv_has(nvSize+1)) {
		return fmt.Errorf("the NV memory of the linked go-tpm-tools simulator is not of the expected %d bytes", nvSize)
	}
	return nil
}

// Manufacture makes a new TPM. With a nil seed its primary seeds are random.
func Manufacture(seed *int64) (*TPM, error) {
	if err := Check(); err != nil {
		return nil, err
	}
	var sim *simulator.Simulator
	var err error
	if seed == nil {
		sim, err = simulator.Get()
	} else {
		sim, err = simulator.GetWithFixedSeedInsecure(*seed)
	}
	if err != nil {
		return nil, fmt.Errorf("manufacturing the reference TPM: %w", err)
	}
	// The seeds were changed in the TPM's working memory only and would not survive a reset.
	C.keep_seeds()
	t := &TPM{sim}
	// go-tpm-tools has started the TPM; without an orderly shutdown its clock would not be safe after the power cycle.
	response, err := t.Run(shutdownClear)
	if err == nil && !bytes.Equal(response[6:], make([]byte, 4)) {
		err = fmt.Errorf("TPM2_Shutdown: response %x", response)
	}
	if err != nil {
		return nil, fmt.Errorf("manufacturing the reference TPM: %w", err)
	}
	C.power_cycle()
	return t, nil
}

// Resume powers on the TPM whose NV memory is nv.
func Resume(nv []byte) (*TPM, error) {
	if len(nv) != nvSize {
		return nil, fmt.Errorf("NV memory of %d bytes instead of %d", len(nv), nvSize)
	}
	t, err := Manufacture(nil)
	if err != nil {
		return nil, err
	}
	if !bool(C.nv_write(unsafe.Pointer(&nv[0]), C.uint(len(nv)))) {
		return nil, errors.New("the reference TPM refused its NV memory")
	}
	C.power_cycle()
	return t, nil
}

// NV returns a copy of the NV memory: all that the TPM keeps without power.
func (t *TPM) NV() []byte {
	nv := make([]byte, nvSize)
	C.nv_read(unsafe.Pointer(&nv[0]), nvSize)
	return nv
}

// Run executes one command and returns its response. An error means that the TPM is in failure mode for good.
func (t *TPM) Run(command []byte) ([]byte, error) {
	if _, err := t.sim.Write(command); err != nil {
		return nil, fmt.Errorf("running a TPM command: %w", err)
	}
	response := make([]byte, 4096)
	n, err := t.sim.Read(response)
	if err != nil {
		return nil, fmt.Errorf("reading a TPM response: %w", err)
	}
	return response[:n], nil
}
