package measure

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/go-tpm/tpm2/transport"

	"keylab.dev/keylab/bootlog"
	"keylab.dev/keylab/ima"
)

// The files in a node's folder, by the kernel's names for what they hold.
const (
	ListFile = "ascii_runtime_measurements" // in securityfs, ima/
	LogFile  = "binary_bios_measurements"   // in securityfs, tpm0/
)

// aggregateBank is the bank of the boot aggregate and the algorithm of files' digests: the kernel's CONFIG_IMA_DEFAULT_HASH_SHA256.
const aggregateBank = crypto.SHA256

// The PCRs of a boot aggregate by SHA-256 are 0 to 9 (ima_calc_boot_aggregate_tfm in the kernel).
const aggregatePCRs = 10

// Options are what one node is.
type Options struct {
	Dir string // for ListFile and LogFile; made with mode 0700 if it is not there
	// Mode is that of the two files; 0: 0600.
	Mode os.FileMode
	// StateFile is where what is to outlast this program is kept: the firmware, and the tamper of the next boot; "": nowhere.
	StateFile string
	// OpenTPM opens a client of the node's TPM. It fails while the node is off.
	OpenTPM func() (transport.TPMCloser, error)
	Machine *bootlog.Machine // nil: the firmware measures nothing
	IMA     *IMA             // nil: the kernel measures nothing
}

// IMA is what a node's kernel measures.
type IMA struct {
	Template ima.Template
	Files    []File // measured at each boot, in this order
}

// File is one file, as the kernel sees it.
type File struct {
	Path   string
	Digest ima.Digest
	// Signature is its extended attribute security.ima, or nothing; only with ima.TemplateSig.
	Signature []byte
}

// ErrNoIMA and ErrNoBoot are about nodes that measure no files, or not their boot.
var (
	ErrNoIMA  = errors.New("the node measures no files (ima.enabled is false)")
	ErrNoBoot = errors.New("the node does not measure its boot (measuredBoot.enabled is false)")
)

// Node is what one node measures. Its methods may be called from several goroutines at once.
type Node struct {
	opts Options

	// mu is held over each change of a list and of the PCR that goes with it.
	mu      sync.Mutex
	machine bootlog.Machine // with the firmware that it has now
	pending string          // the tamper of the next boot
	boot    Boot            // the last one
	list    *ima.List       // nil before the first boot
}

// Boot is what one boot left.
type Boot struct {
	Log      *bootlog.Log // nil: none
	Tamper   string       // the tamper that it was made with
	Firmware string       // version
}

// New is a node that has not booted yet. The error says which part of the machine makes no sense.
func New(o Options) (*Node, error) {
	if o.Mode == 0 {
		o.Mode = 0o600
	}
	n := &Node{opts: o}
	if o.Machine != nil {
		n.machine = *o.Machine
		if err := n.load(); err != nil {
			return nil, err
		}
		if _, err := bootlog.Make(n.machine, []crypto.Hash{aggregateBank}); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// Boot measures the start of firmware and kernel. The TPM must have been started, and nobody may have extended its PCRs. On failure the node has
// booted in part, and the TPM has to be started again.
func (n *Node) Boot(ctx context.Context) (err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.opts.Machine == nil && n.opts.IMA == nil {
		return nil
	}
	if err := os.MkdirAll(n.opts.Dir, 0o700); err != nil {
		return fmt.Errorf("make the folder of the node's logs: %w", err)
	}
	t, err := openTPM(n.opts.OpenTPM)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	n.boot, n.list = Boot{}, nil
	if n.opts.Machine != nil {
		if err := n.bootFirmware(ctx, t); err != nil {
			return fmt.Errorf("measured boot: %w", err)
		}
	}
	if n.opts.IMA != nil {
		if err := n.bootKernel(ctx, t); err != nil {
			return fmt.Errorf("IMA: %w", err)
		}
	}
	return nil
}

// bootFirmware makes this boot's log, with the tamper that waits for it.
func (n *Node) bootFirmware(ctx context.Context, t *tpm) error {
	tamper := n.pending
	log, err := n.makeLog(tamper, t.banks)
	if err != nil {
		return err
	}
	if err := n.write(LogFile, log.Bytes()); err != nil {
		return fmt.Errorf("write the boot log: %w", err)
	}
	for _, e := range log.Extensions() {
		if err := t.extend(ctx, e.PCR, e.Digests); err != nil {
			return err
		}
	}
	n.boot, n.pending = Boot{Log: log, Tamper: tamper, Firmware: n.machine.Firmware.Version}, ""
	return n.save()
}

// write writes one of the files, in place: agents may have it open.
func (n *Node) write(file string, data []byte) error {
	if err := os.WriteFile(n.path(file), data, n.opts.Mode); err != nil {
		return err
	}
	return os.Chmod(n.path(file), n.opts.Mode) // whatever the process' mask is
}

func (n *Node) makeLog(tamper string, banks []crypto.Hash) (*bootlog.Log, error) {
	if tamper == "" {
		return bootlog.Make(n.machine, banks)
	}
	t, err := bootlog.TamperNamed(tamper)
	if err != nil {
		return nil, err
	}
	return t.Apply(n.machine, banks)
}

// bootKernel begins the list with the boot aggregate, and measures the files of the start.
func (n *Node) bootKernel(ctx context.Context, t *tpm) error {
	h := aggregateBank.New()
	for pcr := range aggregatePCRs {
		value, err := t.read(ctx, aggregateBank, pcr)
		if err != nil {
			return err
		}
		h.Write(value)
	}
	if err := n.write(ListFile, nil); err != nil {
		return fmt.Errorf("write the IMA list: %w", err)
	}
	files := append([]File{{Path: ima.BootAggregate, Digest: ima.Digest{Hash: aggregateBank, Sum: h.Sum(nil)}}}, n.opts.IMA.Files...)
	for _, f := range files {
		if _, err := n.measure(ctx, t, f); err != nil {
			return err
		}
	}
	return nil
}

// measure appends a file to the list and then extends PCR 10. n.mu is held.
func (n *Node) measure(ctx context.Context, t *tpm, f File) (ima.Entry, error) {
	e := ima.Entry{Template: n.opts.IMA.Template, Digest: f.Digest, Path: f.Path, Signature: f.Signature}
	digests, err := extension(e, t.banks)
	if err != nil {
		return e, err
	}
	if n.list == nil {
		n.list, err = ima.NewList(e.Template, e.Digest)
	} else {
		err = n.list.Append(e)
	}
	if err != nil {
		return e, err
	}
	line, err := n.list.Lines(n.list.Len() - 1)
	if err != nil {
		return e, err
	}
	if err := appendTo(n.path(ListFile), line); err != nil {
		return e, fmt.Errorf("the IMA list has one entry more than its file: %w", err)
	}
	if err := t.extend(ctx, ima.PCR, digests); err != nil {
		return e, fmt.Errorf("the IMA list has one entry more than PCR %d: %w", ima.PCR, err)
	}
	return e, nil
}

// extension is the digests by which an entry extends PCR 10.
func extension(e ima.Entry, banks []crypto.Hash) (map[crypto.Hash][]byte, error) {
	digests := map[crypto.Hash][]byte{}
	for _, bank := range banks {
		digest, err := e.Extension(bank)
		if err != nil {
			return nil, err
		}
		digests[bank] = digest
	}
	return digests, nil
}

func appendTo(path, text string) (err error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = f.WriteString(text)
	return err
}

// Path is where a file of the node is: ListFile or LogFile.
func (n *Node) path(file string) string { return filepath.Join(n.opts.Dir, file) }

// ListPath is the file with the IMA list, or "" for a node that measures no files.
func (n *Node) ListPath() string {
	if n.opts.IMA == nil {
		return ""
	}
	return n.path(ListFile)
}

// LogPath is the file with the boot log, or "" for a node that does not measure its boot.
func (n *Node) LogPath() string {
	if n.opts.Machine == nil {
		return ""
	}
	return n.path(LogFile)
}

// OpenList opens the text of the IMA list as it is now. ErrNoIMA for a node that has none.
func (n *Node) OpenList() (io.ReadCloser, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.mustMeasureFiles(); err != nil {
		return nil, err
	}
	return io.NopCloser(strings.NewReader(n.list.String())), nil
}

// List is all entries of the IMA list. ErrNoIMA for a node that has none.
func (n *Node) List() ([]ima.Entry, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.mustMeasureFiles(); err != nil {
		return nil, err
	}
	return n.list.Entries(), nil
}

var errNotBooted = errors.New("the node has not booted")

func (n *Node) mustMeasureFiles() error {
	switch {
	case n.opts.IMA == nil:
		return ErrNoIMA
	case n.list == nil:
		return errNotBooted
	}
	return nil
}

// Booted is what the last boot left. ErrNoBoot for a node that does not measure its boot.
func (n *Node) Booted() (Boot, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.opts.Machine == nil:
		return Boot{}, ErrNoBoot
	case n.boot.Log == nil:
		return Boot{}, errNotBooted
	}
	return n.boot, nil
}

// BootLog is the boot log as the kernel shows it. It fails as [Node.Booted] does.
func (n *Node) BootLog() ([]byte, error) {
	b, err := n.Booted()
	if err != nil {
		return nil, err
	}
	return b.Log.Bytes(), nil
}

// RefState is the reference state, in JSON, by which Keylime's policy "example" accepts the node with the firmware that it has now, and without any
// tamper. ErrNoBoot for a node that does not measure its boot.
func (n *Node) RefState() ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.opts.Machine == nil {
		return nil, ErrNoBoot
	}
	log, err := bootlog.Make(n.machine, []crypto.Hash{aggregateBank})
	if err != nil {
		return nil, err
	}
	return log.RefState()
}

// PCRs are values of the node's TPM in the SHA-256 bank.
func (n *Node) PCRs(ctx context.Context, pcrs ...int) (values map[int][]byte, err error) {
	t, err := openTPM(n.opts.OpenTPM)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	values = map[int][]byte{}
	for _, pcr := range pcrs {
		if values[pcr], err = t.read(ctx, aggregateBank, pcr); err != nil {
			return nil, err
		}
	}
	return values, nil
}
