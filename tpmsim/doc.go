// Package tpmsim runs one simulated TPM 2.0 per [TPM] value: it manufactures it (endorsement key, EK certificate in NV),
// lets many clients use it at once, reboots it, cuts its power, and takes snapshots of it.
//
// # Using it
//
//	backend, err := tpmsim.Select("auto")
//	t, err := tpmsim.Open(ctx, tpmsim.Options{Name: "node-1", Dir: "/var/lib/lab/node-1/tpm", Backend: backend})
//	defer t.Close(ctx)
//	id, err := t.Manufacture(ctx, tpmsim.ManufactureOptions{
//		Algorithm:   tpmsim.EKRSA2048,
//		Certificate: func(ek crypto.PublicKey, a tpmsim.Algorithm) ([]byte, error) { return ca.Issue(ek) },
//	})
//	c := t.Client() // a transport.TPMCloser for go-tpm
//	go t.ServeTCTI(ctx, data, ctrl) // for tpm2-tools and tss-esapi: TCTI swtpm:host=127.0.0.1,port=2321
//
// # Backends
//
// "swtpm" runs the swtpm program on libtpms. "simulator" runs Microsoft's reference implementation (go-tpm-tools) and needs
// a cgo build. That code keeps its state in process-wide variables, so each TPM lives in a child process, which is the
// running program itself started again: main and TestMain must call [MaybeRunChild] before anything else.
//
// Both backends are child processes that read raw TPM commands from one end of a socket pair and nothing else: no socket
// file, no port. The kernel closes our end when this process ends, however it ends, and the child takes that end of file as
// its own end. That is why there is no Pdeathsig: it fires when the *thread* that started the child ends, and Go's threads
// come and go.
//
// # Sharing
//
// One TPM has room for three transient objects and three loaded sessions. All clients therefore go through a resource
// manager in this package: commands are run one at a time, each client has transient handles of its own, nobody can use
// another's objects, and objects or sessions are swapped out by TPM2_ContextSave only when the TPM says that it is full.
// What a client leaves behind is flushed when it closes. See [TPM.Client]. The exception is [TPM.ServeTCTI]: tpm2-tss makes
// a new connection for each command, so that all programs behind one pair of ports are one client.
//
// # State
//
// Everything that a TPM keeps over a power cut lies in Options.Dir, which only the owner can read: it holds the seeds of all
// keys in clear. A TPM is as good as its directory: copy it, and there are two TPMs with one identity. [TPM.Snapshot] makes
// such a copy on purpose.
//
// The state is on disk before each answer, with both backends: a kill loses nothing that a real TPM would keep.
//
// With Options.Seed the EK (and all primary keys) of a new TPM follow from that seed; the same seed gives the same EK with
// the same backend, but another with the other backend: the two derive keys in different ways.
//
// # Power
//
// [TPM.Reboot] is orderly (TPM2_Shutdown first), so that the TPM's clock stays safe; [TPM.Crash] is a power cut: after it
// TPMS_CLOCK_INFO.safe is NO until the clock has passed the last value that could have been reported (TPM 2.0 Library, Part
// 1, Timing Components), and attestation by Keylime fails meanwhile. Handles of transient objects and sessions are gone
// after either; persistent objects and NV indices stay.
package tpmsim
