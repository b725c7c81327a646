package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// parse returns the root of the only document in data, or nil after it has reported why there is none.
func (d *decoder) parse(data []byte) *yaml.Node {
	if len(data) > MaxSize {
		d.add(position{}, "", fmt.Sprintf("the file is %d bytes large; at most %d are read", len(data), MaxSize), "")
		return nil
	}
	if i := invalidUTF8(data); i >= 0 {
		d.add(placeOf(data, i), "", "the file is not text in UTF-8: save it in that encoding", "UTF-8")
		return nil
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, next yaml.Node
	err := decodeNode(dec, &doc)
	if errors.Is(err, io.EOF) || err == nil && isEmpty(&doc) {
		message := fmt.Sprintf("the document is empty: a %s needs at least \"apiVersion: %s\" and \"kind: %s\"", d.form.Noun, APIVersion, d.form.Kind)
		if d.form.Kind == "" { // a part of a document
			message = "the document is empty"
		}
		d.add(position{1, 1}, "", message, "")
		return nil
	}
	if err != nil {
		d.syntax(data, err)
		return nil
	}
	switch err := decodeNode(dec, &next); {
	case errors.Is(err, io.EOF) || err == nil && isEmpty(&next):
	case err != nil:
		d.syntax(data, err)
		return nil
	default:
		d.add(at(&next), "", fmt.Sprintf("a second document begins here: a file describes one %[1]s; remove the --- or put the other %[1]s in a file of its own", d.form.Noun), "one document")
		return nil
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		d.add(at(root), "", fmt.Sprintf("the document must consist of fields, beginning with \"apiVersion: %s\"; this is %s", APIVersion, describe(root)), "a mapping")
		return nil
	}
	return root
}

// isEmpty says whether nothing but comments stands in the document.
func isEmpty(doc *yaml.Node) bool {
	return len(doc.Content) == 0 || doc.Content[0].Kind == yaml.ScalarNode && doc.Content[0].ShortTag() == "!!null"
}

// decodeNode reads the next document. The YAML library reports some errors by panicking and recovers only from its own,
// so that an error in it would take the whole program down with the user's file.
func decodeNode(dec *yaml.Decoder, n *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: the parser gave up: %v", r)
		}
	}()
	return dec.Decode(n)
}

var (
	parserMessage = regexp.MustCompile(`^(did not find expected (<|'-'|',' or|key|node content)|found (undefined tag|duplicate %|incompatible))`)
	unknownAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(?s:(.*))$`)

// syntax reports an error of the YAML parser, at the best place that can be found.
func (d *decoder) syntax(data []byte, err error) {
	m := yamlLine.FindStringSubmatch(err.Error())
	line, _ := strconv.Atoi(m[1])
	if line > 0 && parserMessage.MatchString(m[2]) {
		line++ // the library counts these from 0
	}
	pos, message := position{max(1, line), 0}, "this is not YAML: "+m[2]
	if a := unknownAnchor.FindStringSubmatch(m[2]); a != nil { // has no line at all
		pos = placeOf(data, max(0, bytes.Index(data, []byte("*"+a[1]))))
		message = fmt.Sprintf("this is not YAML: no anchor &%s stands before the alias *%s", a[1], a[1])
	}
	if i := controlCharacter(data); i >= 0 {
		pos, message = placeOf(data, i), "this is not YAML: a control character is not allowed"
	} else if i := tabIndent(data, line); i >= 0 {
		pos, message = placeOf(data, i), "YAML does not allow tabs for indentation: use spaces"
	}
	d.add(pos, "", message, "")
}

// invalidUTF8 returns the offset of the first byte that is not UTF-8, or -1.
func invalidUTF8(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// controlCharacter returns the offset of the first character that YAML does not allow (YAML 1.2.2, section 5.1), or -1.
func controlCharacter(data []byte) int {
	return bytes.IndexFunc(data, func(r rune) bool {
		return r < 0x20 && r != '\t' && r != '\n' && r != '\r' || r == 0x7f || r >= 0x80 && r < 0xa0 && r != 0x85
	})
}

// tabIndent returns the offset of a tab in the indentation of the line, counted from 1, or of one of its neighbours (the
// parser's line can be off by one), or -1.
func tabIndent(data []byte, line int) int {
	offset := 0
	for i, l := range strings.SplitAfter(string(data), "\n") {
		indent := l[:len(l)-len(strings.TrimLeft(l, " \t"))]
		if t := strings.IndexByte(indent, '\t'); t >= 0 && i+1 >= line-1 && i+1 <= line+1 {
			return offset + t
		}
		offset += len(l)
	}
	return -1
}

// placeOf returns the line and column (in characters) of an offset.
func placeOf(data []byte, offset int) position {
	before := data[:offset]
	start := bytes.LastIndexByte(before, '\n') + 1
	return position{1 + bytes.Count(before, []byte("\n")), 1 + utf8.RuneCount(before[start:])}
}
