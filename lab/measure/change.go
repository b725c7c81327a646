package measure

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"

	"keylab.dev/keylab/bootlog"
	"keylab.dev/keylab/ima"
)

// Measure has the kernel measure one file: the list gets an entry, and PCR 10 is extended. ErrNoIMA for a node that measures none.
func (n *Node) Measure(ctx context.Context, f File) (entry ima.Entry, err error) {
	err = n.onTPM(func(t *tpm) error {
		entry, err = n.measure(ctx, t, f)
		return err
	})
	return entry, err
}

// TamperList takes the newest entry out of the list, as an intruder does who does not want to be seen, and gives that entry. PCR 10 remembers it.
func (n *Node) TamperList() (removed ima.Entry, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.mustMeasureFiles(); err != nil {
		return removed, err
	}
	entries := n.list.Entries()
	last := len(entries) - 1
	if last == 0 {
		return removed, errors.New("the list has no entry but the boot aggregate: have the node measure a file first")
	}
	shorter, err := ima.NewList(entries[0].Template, entries[0].Digest)
	for _, e := range entries[1:last] {
		if err == nil {
			err = shorter.Append(e)
		}
	}
	if err != nil {
		return removed, err
	}
	// In place: an agent has the file open.
	if err := os.Truncate(n.path(ListFile), int64(len(shorter.String()))); err != nil {
		return removed, fmt.Errorf("shorten the IMA list: %w", err)
	}
	n.list = shorter
	return entries[last], nil
}

// TamperPCR extends PCR 10, in all banks, by something that the list does not have: something ran and was not listed.
func (n *Node) TamperPCR(ctx context.Context) error {
	return n.onTPM(func(t *tpm) error {
		digests := map[crypto.Hash][]byte{}
		for _, bank := range t.banks {
			h := bank.New()
			h.Write([]byte("keylab: extended, but not listed"))
			digests[bank] = h.Sum(nil)
		}
		return t.extend(ctx, ima.PCR, digests)
	})
}

// onTPM does something with the list and the TPM.
func (n *Node) onTPM(do func(*tpm) error) (err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.mustMeasureFiles(); err != nil {
		return err
	}
	t, err := openTPM(n.opts.OpenTPM)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	return do(t)
}

// TamperBoot has the next boot, and only that, be made with a tamper of package bootlog. The error names the tampers there are; it is ErrNoBoot for a
// node that does not measure its boot.
func (n *Node) TamperBoot(name string) (bootlog.Tamper, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.opts.Machine == nil {
		return bootlog.Tamper{}, ErrNoBoot
	}
	tamper, err := bootlog.TamperNamed(name)
	if err != nil {
		return tamper, err
	}
	if _, err := tamper.Apply(n.machine, []crypto.Hash{aggregateBank}); err != nil {
		return tamper, err
	}
	n.pending = name
	return tamper, n.save()
}

// UpdateFirmware gives the node a firmware of another version, which all boots from the next on are made with. The error is ErrNoBoot, or says what
// is wrong with the version.
func (n *Node) UpdateFirmware(version string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.opts.Machine == nil {
		return ErrNoBoot
	}
	updated := n.machine.FirmwareUpdate(version)
	if _, err := bootlog.Make(updated, []crypto.Hash{aggregateBank}); err != nil {
		return err
	}
	n.machine = updated
	return n.save()
}
