package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// device is this agent's client of its TPM. One operation at a time holds it, so
// that the commands of an operation are never mixed with another's.
type device struct {
	open func(ctx context.Context) (transport.TPMCloser, error)
	held chan struct{} // capacity 1: a lock that can be awaited under a context

	// The rest belongs to whoever holds the lock.
	tpm    transport.TPMCloser // nil: not connected
	ek     object              // loaded key or persistent EK; zero when not loaded
	ak     object
	closed bool
}

// object is a key in the TPM that commands can refer to.
type object struct {
	handle     tpm2.TPMHandle
	name       tpm2.TPM2BName // TPM 2.0 Part 1, "Names"
	qualified  []byte         // qualified name, as quotes give it for the signer
	persistent bool
}

func (o object) loaded() bool { return o.handle != 0 }

// ErrTPM is matched by all errors of the TPM and of the connection to it. Those
// that the TPM answered with also match a tpm2.TPMRC.
var ErrTPM = errors.New("TPM")

// errDeviceClosed is what operations after Close get.
var errDeviceClosed = errors.New("the agent is closed")

func newDevice(open func(ctx context.Context) (transport.TPMCloser, error)) *device {
	return &device{open: open, held: make(chan struct{}, 1)}
}

// use runs fn while holding the TPM. When the TPM turns out to have forgotten
// the keys (it was reset) or the connection is dead (it was restarted), it
// connects anew and runs fn a second time; fn must therefore load what it needs.
func (d *device) use(ctx context.Context, fn func(t transport.TPM) error) error {
	select {
	case d.held <- struct{}{}:
		defer func() { <-d.held }()
	case <-ctx.Done():
		return fmt.Errorf("waiting for this agent's TPM: %w", context.Cause(ctx))
	}
	err := d.attempt(ctx, fn)
	if err != nil && d.stale(err) && ctx.Err() == nil {
		err = d.attempt(ctx, fn)
	}
	if err != nil {
		return fmt.Errorf("%w: %w%s", ErrTPM, err, hint(err))
	}
	return nil
}

// hint says what can be done about some answers of a TPM.
func hint(err error) string {
	switch {
	case errors.Is(err, tpm2.TPMRCObjectMemory):
		return " (other clients keep the TPM's few key slots occupied: share it through a multiplexer that swaps or flushes keys, or restart it)"
	case errors.Is(err, tpm2.TPMRCInitialize):
		return " (the TPM was not started: send TPM2_Startup first)"
	}
	return ""
}

func (d *device) attempt(ctx context.Context, fn func(t transport.TPM) error) error {
	if d.closed {
		return errDeviceClosed
	}
	if d.tpm == nil {
		t, err := d.open(ctx)
		if err != nil {
			return fmt.Errorf("opening a connection: %w", err)
		}
		d.tpm = t
	}
	link := &link{tpm: d.tpm}
	err := fn(link)
	if link.broken {
		d.disconnect()
	}
	return err
}

// sendAttempts bounds how often a command is sent that the TPM asks to repeat.
const sendAttempts = 10

// link notes that a command failed to get to the TPM and back, as opposed to an
// error the TPM itself answered with. It repeats a command when the TPM says so:
// the first use of a key under dictionary-attack protection after TPM2_Startup is
// answered with TPM_RC_RETRY (Part 2, section 6.6; seen with libtpms).
type link struct {
	tpm    transport.TPM
	broken bool
}

func (l *link) Send(command []byte) (answer []byte, err error) {
	for range sendAttempts {
		answer, err = l.tpm.Send(command)
		if err != nil {
			l.broken = true
			return nil, err
		}
		if !again(answer) {
			break
		}
	}
	return answer, nil
}

// again says whether a response's code, octets 6 to 9 of the header, asks to
// send the unchanged command once more.
func again(answer []byte) bool {
	if len(answer) < 10 {
		return false
	}
	rc := tpm2.TPMRC(binary.BigEndian.Uint32(answer[6:]))
	return rc == tpm2.TPMRCRetry || rc == tpm2.TPMRCYielded
}

// stale says whether err means that handles or connection are out of date, and
// forgets them if so.
func (d *device) stale(err error) bool {
	if d.tpm == nil { // attempt dropped the connection, or could not open one
		return !d.closed
	}
	var rc tpm2.TPMRC
	if errors.Is(err, errForeignKey) || errors.As(err, &rc) && staleHandle(rc) {
		d.ek, d.ak = object{}, object{}
		return true
	}
	return false
}

// staleHandle recognises the answers to a handle that is no longer loaded:
// TPM_RC_REFERENCE_H0-H6 and TPM_RC_HANDLE (Part 2, section 6.6).
func staleHandle(rc tpm2.TPMRC) bool {
	if rc >= tpm2.TPMRCReferenceH0 && rc <= tpm2.TPMRCReferenceH0+6 {
		return true
	}
	return errors.Is(rc, tpm2.TPMRCHandle)
}

func (d *device) disconnect() {
	if d.tpm != nil {
		_ = d.tpm.Close() // the connection is given up already
	}
	d.tpm, d.ek, d.ak = nil, object{}, object{}
}

// flush unloads a key that this agent loaded.
func flush(t transport.TPM, o *object) {
	if o.loaded() && !o.persistent {
		// A failure leaves the object to the multiplexer's cleanup at Close.
		_, _ = tpm2.FlushContext{FlushHandle: o.handle}.Execute(t)
	}
	*o = object{}
}

// close unloads this agent's keys and ends the connection. It waits for a
// running operation.
func (d *device) close() error {
	d.held <- struct{}{}
	defer func() { <-d.held }()
	d.closed = true
	if d.tpm == nil {
		return nil
	}
	flush(d.tpm, &d.ek)
	flush(d.tpm, &d.ak)
	err := d.tpm.Close()
	d.tpm = nil
	if err != nil {
		return fmt.Errorf("closing the TPM connection: %w", err)
	}
	return nil
}
