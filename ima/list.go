package ima

import (
	"crypto"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// BootAggregate is the path of a list's first entry. Its digest stands for the boot: the hash of the values of PCRs 0 to 9 of the
	// bank of the same algorithm, one after the other, in ascending order; with SHA-1 it is PCRs 0 to 7 (ima_calc_boot_aggregate_tfm
	// in the kernel).
	BootAggregate = "boot_aggregate"
	// MaxListBytes is the longest text of a list, in bytes: more than 100000 files with paths of common length.
	MaxListBytes = 16 << 20
)

// List is the measurement list of one boot. Entries are added at its end and never changed or removed.
//
// A List is not safe for concurrent use: whoever appends to it extends PCR 10 as well, and needs a lock over both, lest a quote
// comes between them.
type List struct {
	entries []Entry
	lines   []string // of entries, each with its line feed
	size    int      // bytes in lines
}

// NewList gives the list of a boot, with its boot_aggregate (see [BootAggregate]) as the one entry. Entries to come can have another
// template. It fails for what [Entry.Validate] refuses.
func NewList(template Template, aggregate Digest) (*List, error) {
	l := &List{}
	if err := l.Append(Entry{Template: template, Digest: aggregate, Path: BootAggregate}); err != nil {
		return nil, err
	}
	return l, nil
}

// Append adds a copy of the entry, with the spaces of its path made underscores. On failure the list stays as it was: for what
// [Entry.Validate] refuses, for a first entry that is no boot_aggregate, and for a list that would get longer than MaxListBytes.
func (l *List) Append(e Entry) error {
	line, err := e.Line()
	if err != nil {
		return fmt.Errorf("IMA list, entry %d: %w", len(l.entries), err)
	}
	if err := l.checkFirst(e); err != nil {
		return fmt.Errorf("IMA list, entry 0: %w", err)
	}
	line += "\n"
	if l.size+len(line) > MaxListBytes {
		return fmt.Errorf("IMA list, entry %d: the list would have more than %d bytes: reboot the node", len(l.entries), MaxListBytes)
	}
	e = e.clone()
	e.Path = e.listPath()
	l.entries = append(l.entries, e)
	l.lines = append(l.lines, line)
	l.size += len(line)
	return nil
}

// Len gives the number of entries, boot_aggregate included.
func (l *List) Len() int {
	return len(l.entries)
}

// Entries gives a copy of all entries, in the order of measurement.
func (l *List) Entries() []Entry {
	entries := make([]Entry, len(l.entries))
	for i, e := range l.entries {
		entries[i] = e.clone()
	}
	return entries
}

// Lines gives the text of the entries from number from on, counted from 0; from equal to Len gives an empty text. It fails for a
// negative number, and for one beyond Len: whoever asks so has seen another list, such as that of the boot before.
func (l *List) Lines(from int) (string, error) {
	if from < 0 || from > len(l.lines) {
		return "", fmt.Errorf("IMA list has no entry %d: ask for 0 to %d", from, len(l.lines))
	}
	return strings.Join(l.lines[from:], ""), nil
}

// String gives the text of the whole list.
func (l *List) String() string {
	return strings.Join(l.lines, "")
}

// WriteTo writes the text of the whole list and gives the number of bytes written: [io.WriterTo].
func (l *List) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, l.String())
	if err != nil {
		return int64(n), fmt.Errorf("writing the IMA list: %w", err)
	}
	return int64(n), nil
}

// Extensions gives for each entry, in order, the digest by which it extends PCR 10 of the bank ([Entry.Extension]). It fails for a
// bank other than SHA-1, SHA-256, SHA-384 and SHA-512.
func (l *List) Extensions(bank crypto.Hash) ([][]byte, error) {
	if err := checkBank(bank); err != nil {
		return nil, err
	}
	all := make([][]byte, len(l.entries))
	for i, e := range l.entries {
		extension, err := e.Extension(bank)
		if err != nil {
			return nil, fmt.Errorf("IMA list, entry %d: %w", i, err)
		}
		all[i] = extension
	}
	return all, nil
}

// Replay gives the value of PCR 10 of the bank, bank.Size() bytes, after all entries: from zeros on, the hash of the old value and the
// extension (TPM 2.0 Library, Part 1, Extend of a PCR). It fails as [List.Extensions] does.
func (l *List) Replay(bank crypto.Hash) ([]byte, error) {
	extensions, err := l.Extensions(bank)
	if err != nil {
		return nil, err
	}
	value := make([]byte, bank.Size())
	for _, extension := range extensions {
		value = sum(bank, value, extension)
	}
	return value, nil
}

// Parse reads the text of a whole list. It is strict: what it accepts, [List.String] gives again byte for byte. It fails, with the
// number of the line (from 1), for a line that the kernel would not print, a template hash that is not that of the line's fields, a
// template that is not modelled, and a PCR other than 10; also for an empty list, one that does not begin with boot_aggregate, one
// longer than MaxListBytes, and as r does.
func Parse(r io.Reader) (*List, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxListBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the IMA list: %w", err)
	}
	switch {
	case len(data) == 0:
		return nil, fmt.Errorf("IMA list is empty: it has at least a %s: boot the node with IMA", BootAggregate)
	case len(data) > MaxListBytes:
		return nil, fmt.Errorf("IMA list has more than %d bytes: reboot the node, or measure less", MaxListBytes)
	}
	l, rest := &List{}, string(data)
	for number := 1; rest != ""; number++ {
		line, after, found := strings.Cut(rest, "\n")
		if err := l.appendLine(line, found); err != nil {
			return nil, fmt.Errorf("IMA list, line %d: %w", number, err)
		}
		rest = after
	}
	return l, nil
}

// appendLine appends the entry of one line, which has its line feed or not.
func (l *List) appendLine(line string, ended bool) error {
	if !ended {
		return errors.New("line feed at the end is missing: the list was cut off: read it whole")
	}
	e, err := ParseEntry(line)
	if err != nil {
		return err
	}
	if err := l.checkFirst(e); err != nil {
		return err
	}
	return l.Append(e)
}

// checkFirst says whether the list is one that e can be added to: its first entry is a boot_aggregate, which was measured.
func (l *List) checkFirst(e Entry) error {
	if len(l.entries) > 0 || e.Path == BootAggregate && !e.Violation {
		return nil
	}
	if e.Violation {
		return fmt.Errorf("violation of %s comes first: a list begins with a %s: make or read it from there on", quote(e.Path), BootAggregate)
	}
	return fmt.Errorf("%s comes first: a list begins with a %s: make or read it from there on", quote(e.Path), BootAggregate)
}
