package ima_test

import (
	"bytes"
	"crypto"
	"strings"
	"testing"

	"keylab.dev/keylab/ima"
)

const (
	aggregate = "10 1d8d532d463c9f8c205d0df7787669a85f93e260 ima-ng sha1:0000000000000000000000000000000000000000 boot_aggregate\n"
	zeroHash  = "0000000000000000000000000000000000000000"
	someHash  = "1d8d532d463c9f8c205d0df7787669a85f93e260"
)

func TestParseRefusals(t *testing.T) {
	file := strings.Repeat("ab", 32)
	cases := map[string]struct{ text, want string }{
		"empty":          {"", "IMA list is empty: it has at least a boot_aggregate: boot the node with IMA"},
		"cut off":        {aggregate + aggregate[:50], "IMA list, line 2: line feed at the end is missing: the list was cut off: read it whole"},
		"empty line":     {aggregate + "\n" + aggregate, "IMA list, line 2: line is empty: remove it"},
		"no list":        {"hello world\n", `IMA list, line 1: "hello world" is no entry: a line has PCR, template hash, template and its fields`},
		"another PCR":    {aggregate + "11" + aggregate[2:], `IMA list, line 2: PCR is "11": this model knows PCR 10 alone: remove the line`},
		"PCR with zero":  {"0" + aggregate, `IMA list, line 1: PCR is "010"`},
		"template ima":   {"10 " + someHash + " ima " + zeroHash + " boot_aggregate\n", `template "ima" is not modelled: use ima-ng or ima-sig`},
		"fields missing": {"10 " + someHash + " ima-ng sha1:" + zeroHash + "\n", "ima-ng has 5 fields (PCR, template hash, template, file digest, path), not 4"},
		"space at the end": {
			strings.Replace(aggregate, "\n", " \n", 1), "IMA list, line 1: ima-ng has 5 fields (PCR, template hash, template, file digest, path), not 6: put one space",
		},
		"no space at the end": {"10 " + someHash + " ima-sig sha1:" + zeroHash + " boot_aggregate\n", "path, signature), not 5: put one space between fields"},
		"many fields":         {"10 " + someHash + " ima-ng" + strings.Repeat(" ", 1000) + "\n", "not 7 or more: put one space between fields"},
		"short template hash": {"10 1d8d ima-ng sha1:" + zeroHash + " boot_aggregate\n", "template hash has 2 bytes, SHA-1 has 20: take the list of SHA-1"},
		"list of SHA-256":     {"10 " + file + " ima-ng sha1:" + zeroHash + " boot_aggregate\n", "template hash has 32 bytes, SHA-1 has 20: take the list of SHA-1"},
		"template hash in upper case": {
			"10 1D8D532D463C9F8C205D0DF7787669A85F93E260 ima-ng sha1:" + zeroHash + " boot_aggregate\n",
			"hexadecimal digits are in upper case: the kernel prints them in lower case",
		},
		"template hash not hexadecimal": {"10 zz" + aggregate[5:], "give pairs of hexadecimal digits: encoding/hex: invalid byte: U+007A 'z'"},
		"digest without algorithm":      {"10 " + someHash + " ima-ng " + zeroHash + " /a\n", "has no algorithm: write it as sha256:<hex>"},
		"md5":                           {"10 " + someHash + " ima-ng md5:" + zeroHash[:32] + " /a\n", `algorithm "md5" is not known: use sha1, sha256`},
		"odd digest":                    {"10 " + someHash + " ima-ng sha256:abc /a\n", `"sha256:abc": give pairs of hexadecimal digits: encoding/hex: odd`},
		"short digest":                  {"10 " + someHash + " ima-ng sha256:" + zeroHash + " /a\n", "has 20 bytes, sha256 has 32: give the digest whole"},
		"no path":                       {"10 " + someHash + " ima-ng sha1:" + zeroHash + " \n", "path is empty"},
		"NUL in the path":               {"10 " + someHash + " ima-ng sha1:" + zeroHash + " /a\x00\n", "has a NUL or a line feed"},
		"bad signature":                 {"10 " + someHash + " ima-sig sha1:" + zeroHash + " /a 0\n", "signature: give pairs of hexadecimal digits"},
		"changed path": {
			strings.Replace(aggregate, "boot_aggregate", "boot_aggregatf", 1),
			"IMA list, line 1: template hash is " + someHash + ", but that of the fields is ",
		},
		"changed digest":        {aggregate + strings.Replace(aggregate, "sha1:0", "sha1:1", 1), "IMA list, line 2: template hash is " + someHash},
		"violation with digest": {aggregate + "10 " + zeroHash + " ima-ng sha256:" + file + " /a\n", "IMA list, line 2: violation has a file digest"},
		"violation first":       {"10 " + zeroHash + " ima-ng sha1:" + zeroHash + " boot_aggregate\n", `line 1: violation of "boot_aggregate" comes first`},
	}
	for name, c := range cases {
		_, err := ima.Parse(strings.NewReader(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}

	// A list from an entry in the middle on is not a whole list, however good its lines are.
	tail, err := madeList(t).Lines(1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = ima.Parse(strings.NewReader(tail))
	if want := `IMA list, line 1: "/usr/sbin/init" comes first: a list begins with a boot_aggregate: make or read it from there on`; err == nil ||
		err.Error() != want {
		t.Errorf("tail: error %v, want %s", err, want)
	}
}

// TestLongLineInError says that an error about a very long line stays short.
func TestLongLineInError(t *testing.T) {
	_, err := ima.Parse(strings.NewReader(strings.Repeat("\xff", 1<<20) + "\n"))
	if err == nil || len(err.Error()) > 600 {
		t.Errorf("error %.700v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(aggregate))
	f.Add([]byte(madeList(f).String()))
	f.Add([]byte(aggregate + "10 " + zeroHash + " ima-sig sha256:" + zeroHash + " /a \n"))
	f.Add([]byte(aggregate + "10 " + zeroHash + " ima-sig sha1:" + zeroHash + " /a 0302\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ima.Parse(bytes.NewReader(data))
		if err != nil {
			return
		}
		var text bytes.Buffer
		if _, err := list.WriteTo(&text); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(text.Bytes(), data) {
			t.Fatalf("%q is written as %q", data, text.Bytes())
		}
		again, err := ima.Parse(&text)
		if err != nil {
			t.Fatalf("%q: what was written is refused: %v", data, err)
		}
		first, err := list.Replay(crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		second, err := again.Replay(crypto.SHA256)
		if err != nil || !bytes.Equal(first, second) || again.Len() != list.Len() {
			t.Fatalf("%q: PCR 10 is %x after a round trip, %v, was %x", data, second, err, first)
		}
	})
}
