package ima

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

const (
	// PCR is the number of the PCR that all entries extend: the kernel's CONFIG_IMA_MEASURE_PCR_IDX, in its default.
	PCR = 10
	// MaxPathBytes is the longest path of an entry, in bytes: PATH_MAX of Linux less the final NUL.
	MaxPathBytes = 4095
	// MaxSignatureBytes is the longest signature, in bytes: what an extended attribute can hold, XATTR_SIZE_MAX of Linux.
	MaxSignatureBytes = 65536
)

// Template names the fields of an entry, as the kernel's option ima_template= does.
type Template string

const (
	// TemplateNG has the file's digest and path: d-ng|n-ng.
	TemplateNG Template = "ima-ng"
	// TemplateSig has the file's signature too: d-ng|n-ng|sig.
	TemplateSig Template = "ima-sig"
)

// Entry is one measurement. Its methods fail as [Entry.Validate] does, and change nothing.
type Entry struct {
	Template Template
	Digest   Digest
	// Path is the file's path, 1 to MaxPathBytes bytes in any encoding, without NUL and line feed. The list has an underscore for
	// each space in it, for which the template data, and so all hashes, are made: ima_write_template_field_data in the kernel.
	Path string
	// Signature is the whole extended attribute security.ima, beginning with its type (0x03), or nothing; 0 to MaxSignatureBytes
	// bytes, and only with TemplateSig.
	Signature []byte
	// Violation marks a measurement that cannot be trusted: the file was open for writing while it was read (the kernel's
	// open_writers and ToMToU violations). Digest is then zeros.
	Violation bool
}

// NewViolation gives the entry of a violation, with as many zeros for the file's digest as hash has bytes, which is how newer
// kernels make it. It fails as [Entry.Validate] does.
func NewViolation(template Template, hash crypto.Hash, path string) (Entry, error) {
	digest := Digest{Hash: hash}
	if _, err := digest.name(); err != nil { // before Size, which panics for a hash that does not exist
		return Entry{}, err
	}
	digest.Sum = make([]byte, hash.Size())
	e := Entry{Template: template, Digest: digest, Path: path, Violation: true}
	return e, e.Validate()
}

// Validate says what keeps the entry from being in a list, and what to do about it.
func (e Entry) Validate() error {
	switch e.Template {
	case TemplateNG:
		if len(e.Signature) > 0 {
			return errors.New("template ima-ng has no field for a signature: use ima-sig")
		}
	case TemplateSig:
		if n := len(e.Signature); n > MaxSignatureBytes {
			return fmt.Errorf("signature has %d bytes: an extended attribute holds %d", n, MaxSignatureBytes)
		}
	default:
		return fmt.Errorf("template %s is not modelled: use ima-ng or ima-sig", quote(string(e.Template)))
	}
	if err := e.Digest.check(e.Violation); err != nil {
		return err
	}
	switch n := len(e.Path); {
	case n == 0:
		return errors.New("path is empty: give the path of the file that was measured")
	case n > MaxPathBytes:
		return fmt.Errorf("path %s has %d bytes: Linux has paths of up to %d", quote(e.Path), n, MaxPathBytes)
	}
	if strings.ContainsAny(e.Path, "\x00\n") {
		return fmt.Errorf("path %s has a NUL or a line feed, which would end it in the list: rename the file", quote(e.Path))
	}
	return nil
}

// TemplateData gives what the template hash is taken over: for each field its length in bytes, as 32 bits, little-endian, and
//
//	d-ng: the algorithm's name, ':', a zero byte, the digest
//	n-ng: the path, a zero byte
//	sig:  the signature, or nothing (ima-sig alone)
//
// The kernel's words for this are in security/integrity/ima/ima_crypto.c, ima_calc_field_array_hash_tfm. A machine with another
// byte order writes lengths in that order, unless it is booted with ima_canonical_fmt.
func (e Entry) TemplateData() ([]byte, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	name, err := e.Digest.name()
	if err != nil {
		return nil, err
	}
	data := appendField(nil, []byte(name+":\x00"), e.Digest.Sum)
	data = appendField(data, []byte(e.listPath()), []byte{0})
	if e.Template == TemplateSig {
		data = appendField(data, e.Signature)
	}
	return data, nil
}

// TemplateHash gives the template hash as the list of the given algorithm has it, bank.Size() bytes: the hash of the template data,
// or zeros for a violation. The text list is that of SHA-1.
func (e Entry) TemplateHash(bank crypto.Hash) ([]byte, error) {
	return e.templateHash(bank, 0)
}

// Extension gives the digest by which the entry extends PCR 10 of the bank, bank.Size() bytes: the template hash, or all ones (0xff)
// for a violation, which makes the PCR one that no list of files leads to (ima_add_template_entry and ima_init_digests in the kernel).
func (e Entry) Extension(bank crypto.Hash) ([]byte, error) {
	return e.templateHash(bank, 0xff)
}

// templateHash gives the hash of the template data, or a hash full of the given byte for a violation.
func (e Entry) templateHash(bank crypto.Hash, violation byte) ([]byte, error) {
	if err := checkBank(bank); err != nil {
		return nil, err
	}
	data, err := e.TemplateData()
	if err != nil {
		return nil, err
	}
	if e.Violation {
		return bytes.Repeat([]byte{violation}, bank.Size()), nil
	}
	return sum(bank, data), nil
}

// Line gives the entry's line of the text list, without the line feed.
func (e Entry) Line() (string, error) {
	hash, err := e.TemplateHash(crypto.SHA1)
	if err != nil {
		return "", err
	}
	line := fmt.Sprintf("%d %x %s %s %s", PCR, hash, e.Template, e.Digest, e.listPath())
	if e.Template == TemplateSig {
		// The kernel prints the space before it looks whether there is a signature (ima_ascii_measurements_show).
		line += " " + hex.EncodeToString(e.Signature)
	}
	return line, nil
}

// listPath is the path as the list has it.
func (e Entry) listPath() string {
	return strings.ReplaceAll(e.Path, " ", "_")
}

// clone gives an entry that shares no memory with e.
func (e Entry) clone() Entry {
	e.Digest.Sum = slices.Clone(e.Digest.Sum)
	e.Signature = slices.Clone(e.Signature)
	return e
}

// appendField appends one field of template data: the length of all parts together, and the parts.
func appendField(data []byte, parts ...[]byte) []byte {
	field := slices.Concat(parts...)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(field)))
	return append(data, field...)
}

func sum(hash crypto.Hash, parts ...[]byte) []byte {
	h := hash.New()
	for _, part := range parts {
		h.Write(part) // never fails, says hash.Hash
	}
	return h.Sum(nil)
}
