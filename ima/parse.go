package ima

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// fieldsOf says how many fields a line has, PCR and template hash included.
var fieldsOf = map[Template]struct {
	count int
	names string
}{
	TemplateNG:  {5, "PCR, template hash, template, file digest, path"},
	TemplateSig: {6, "PCR, template hash, template, file digest, path, signature"},
}

// ParseEntry reads one line of the text list, without its line feed. It fails as [Parse] does for one line, but knows no line number.
func ParseEntry(line string) (Entry, error) {
	if line == "" {
		return Entry{}, errors.New("line is empty: remove it")
	}
	fields := strings.SplitN(line, " ", 7) // one more than there can be, lest a long line of spaces becomes many strings
	if len(fields) < 3 {
		return Entry{}, fmt.Errorf("%s is no entry: a line has PCR, template hash, template and its fields, with one space between", quote(line))
	}
	if fields[0] != strconv.Itoa(PCR) {
		return Entry{}, fmt.Errorf("PCR is %s: this model knows PCR %d alone: remove the line", quote(fields[0]), PCR)
	}
	template := Template(fields[2])
	want, known := fieldsOf[template]
	if !known {
		return Entry{}, fmt.Errorf("template %s is not modelled: use ima-ng or ima-sig", quote(fields[2]))
	}
	if len(fields) != want.count {
		return Entry{}, fmt.Errorf("%s has %d fields (%s), not %s: put one space between fields, and an underscore for a space in the path",
			template, want.count, want.names, atMost(len(fields)))
	}
	hash, err := parseHex(fields[1])
	if err != nil {
		return Entry{}, fmt.Errorf("template hash %s: %w", quote(fields[1]), err)
	}
	if len(hash) != crypto.SHA1.Size() {
		return Entry{}, fmt.Errorf("template hash has %d bytes, SHA-1 has %d: take the list of SHA-1", len(hash), crypto.SHA1.Size())
	}
	e := Entry{Template: template, Path: fields[4], Violation: isZero(hash)}
	if e.Digest, err = ParseDigest(fields[3]); err != nil {
		return Entry{}, err
	}
	if template == TemplateSig && fields[5] != "" {
		if e.Signature, err = parseHex(fields[5]); err != nil {
			return Entry{}, fmt.Errorf("signature: %w", err)
		}
	}
	return e, e.checkHash(hash)
}

// checkHash says whether the list can have the entry with the given SHA-1 template hash.
func (e Entry) checkHash(hash []byte) error {
	own, err := e.TemplateHash(crypto.SHA1)
	if err != nil {
		return err
	}
	if !bytes.Equal(own, hash) {
		return fmt.Errorf("template hash is %x, but that of the fields is %x: the line was changed: take it from the node again", hash, own)
	}
	return nil
}

// atMost gives the number of fields, of which only the first seven were counted.
func atMost(n int) string {
	if n >= 7 {
		return "7 or more"
	}
	return strconv.Itoa(n)
}

// From is the text of a list from an entry on, 0 being the first, and how many entries there are in all. For a from not below that the text is empty.
func From(list string, from int) (text string, total int) {
	lines := strings.SplitAfter(list, "\n")
	lines = lines[:len(lines)-1] // what follows the last line feed
	return strings.Join(lines[min(from, len(lines)):], ""), len(lines)
}
