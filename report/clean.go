package report

import (
	"fmt"
	"strings"
	"unicode"
)

// Clean writes control characters as \x1b and the like, except the line feed and the tab, and normalises line ends. Invalid UTF-8
// becomes U+FFFD. Characters that change the direction of text go the same way: they can make a terminal show another text.
func Clean(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\r\n", "\n")
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n' || r == '\t':
			b.WriteRune(r)
		case unicode.IsControl(r) && r <= 0xff:
			fmt.Fprintf(&b, `\x%02x`, r)
		case unicode.Is(unicode.Bidi_Control, r) || r == 0xFFFE || r == 0xFFFF:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// lines splits cleaned text, without blank lines at its ends and without tabs, whose width nobody knows.
func lines(s string) []string {
	s = strings.Trim(strings.ReplaceAll(Clean(s), "\t", "    "), "\n ")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// oneLine is the text with line breaks made blanks.
func oneLine(s string) string { return strings.Join(lines(s), " ") }
