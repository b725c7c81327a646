package ima_test

import (
	"bytes"
	"crypto"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"keylab.dev/keylab/ima"
)

var banks = []crypto.Hash{crypto.SHA1, crypto.SHA256, crypto.SHA384, crypto.SHA512}

// digestOf makes a file digest that differs for each text.
func digestOf(hash crypto.Hash, text string) ima.Digest {
	h := hash.New()
	h.Write([]byte(text))
	return ima.Digest{Hash: hash, Sum: h.Sum(nil)}
}

func fromHex(t *testing.T, text string) []byte {
	t.Helper()
	data, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestTemplateData compares with bytes written by hand from the kernel's documentation, and with hashes over them.
func TestTemplateData(t *testing.T) {
	file := sha256.Sum256([]byte("hello\n"))
	dng := slices.Concat([]byte{40, 0, 0, 0, 's', 'h', 'a', '2', '5', '6', ':', 0}, file[:])
	nng := []byte{9, 0, 0, 0, '/', 'b', 'i', 'n', '/', 'a', '_', 'b', 0}
	sha1File := sha1.Sum([]byte("hello\n"))
	cases := map[string]struct {
		entry ima.Entry
		want  []byte
	}{
		"ima-ng": {
			ima.Entry{Template: ima.TemplateNG, Digest: ima.Digest{Hash: crypto.SHA256, Sum: file[:]}, Path: "/bin/a_b"},
			slices.Concat(dng, nng),
		},
		"space in the path": {
			ima.Entry{Template: ima.TemplateNG, Digest: ima.Digest{Hash: crypto.SHA256, Sum: file[:]}, Path: "/bin/a b"},
			slices.Concat(dng, nng),
		},
		"ima-sig without signature": {
			ima.Entry{Template: ima.TemplateSig, Digest: ima.Digest{Hash: crypto.SHA256, Sum: file[:]}, Path: "/bin/a_b"},
			slices.Concat(dng, nng, []byte{0, 0, 0, 0}),
		},
		"ima-sig": {
			ima.Entry{
				Template: ima.TemplateSig, Digest: ima.Digest{Hash: crypto.SHA256, Sum: file[:]}, Path: "/bin/a_b",
				Signature: append([]byte{3, 2}, make([]byte, 256)...),
			},
			slices.Concat(dng, nng, []byte{2, 1, 0, 0, 3, 2}, make([]byte, 256)),
		},
		"sha1": {
			ima.Entry{Template: ima.TemplateNG, Digest: ima.Digest{Hash: crypto.SHA1, Sum: sha1File[:]}, Path: "/bin/a_b"},
			slices.Concat([]byte{26, 0, 0, 0, 's', 'h', 'a', '1', ':', 0}, sha1File[:], nng),
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := c.entry.TemplateData()
			if err != nil || !bytes.Equal(got, c.want) {
				t.Fatalf("template data % x, %v, want % x", got, err, c.want)
			}
			s1, s256, s384, s512 := sha1.Sum(c.want), sha256.Sum256(c.want), sha512.Sum384(c.want), sha512.Sum512(c.want)
			for i, want := range [][]byte{s1[:], s256[:], s384[:], s512[:]} {
				hash, err := c.entry.TemplateHash(banks[i])
				if err != nil || !bytes.Equal(hash, want) {
					t.Errorf("%v template hash %x, %v, want %x", banks[i], hash, err, want)
				}
				extension, err := c.entry.Extension(banks[i])
				if err != nil || !bytes.Equal(extension, want) {
					t.Errorf("%v extension %x, %v, want %x", banks[i], extension, err, want)
				}
			}
		})
	}
}

// TestKnownLines has lines from elsewhere: of a kernel that found no TPM, and of the lists in Keylime's own tests.
func TestKnownLines(t *testing.T) {
	lines := []string{
		"10 1d8d532d463c9f8c205d0df7787669a85f93e260 ima-ng sha1:0000000000000000000000000000000000000000 boot_aggregate",
		"10 0c8a706a75a5689c1e168f0a573a3cbec33061b5 ima-sig " +
			"sha256:e4cb9f5709c88376b5fc3743cd88e76b9aae8f3d992d845678de5215edb31216 boot_aggregate ",
		"10 5d4d5141ccd5066d50dc3f21d79ba02fedc24256 ima-sig " +
			"sha256:b8ae0b8dd04a5935cd8165aa2260cd11b658bd71629bdb52256a675a1f73907b /usr/bin/zmore " +
			"030204531f402500483046022100fe24678d21083ead47660e1a2d553a592d777c478d1b0466de6ed484b54956b3" +
			"022100cad3adb37f277bbb03544d6107751b4cd4f2289d8353fa36257400a99334d5c3",
	}
	for _, line := range lines {
		e, err := ima.ParseEntry(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if got, err := e.Line(); err != nil || got != line {
			t.Errorf("line %q, %v, want %q", got, err, line)
		}
	}
	e, err := ima.ParseEntry(lines[2])
	if err != nil {
		t.Fatal(err)
	}
	if e.Template != ima.TemplateSig || e.Path != "/usr/bin/zmore" || len(e.Signature) != 81 || e.Signature[0] != 3 || e.Violation ||
		e.Digest.String() != "sha256:b8ae0b8dd04a5935cd8165aa2260cd11b658bd71629bdb52256a675a1f73907b" {
		t.Errorf("entry %+v", e)
	}
}

// TestSHA256TemplateHash has the SHA-256 template hash for a line of the SHA-1 list, computed by another program.
func TestSHA256TemplateHash(t *testing.T) {
	e, err := ima.ParseEntry("10 8aa71d146be2b1a0a53cb603be22928f1b74ae17 ima-sig " +
		"sha256:94326940137a8f59b369d1aa058bccce58cbda37e68be0f138ea45c2cb743a46 boot_aggregate ")
	if err != nil {
		t.Fatal(err)
	}
	got, err := e.Extension(crypto.SHA256)
	if want := fromHex(t, "cc1078d3b981e8ef52b3d4d9cffc2f27648d05947d4caa829e47f83fb8f8ed00"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("extension %x, %v, want %x", got, err, want)
	}
}

func TestViolation(t *testing.T) {
	e, err := ima.NewViolation(ima.TemplateNG, crypto.SHA256, "/var/log/audit.log")
	if err != nil {
		t.Fatal(err)
	}
	line, err := e.Line()
	want := "10 " + strings.Repeat("0", 40) + " ima-ng sha256:" + strings.Repeat("0", 64) + " /var/log/audit.log"
	if err != nil || line != want {
		t.Errorf("line %q, %v, want %q", line, err, want)
	}
	for _, bank := range banks {
		if got, err := e.Extension(bank); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{0xff}, bank.Size())) {
			t.Errorf("%v extension %x, %v", bank, got, err)
		}
		if got, err := e.TemplateHash(bank); err != nil || !bytes.Equal(got, make([]byte, bank.Size())) {
			t.Errorf("%v template hash %x, %v", bank, got, err)
		}
	}
	// Older kernels have 20 zero bytes for the digest, whatever the algorithm.
	old := strings.Replace(want, strings.Repeat("0", 64), strings.Repeat("0", 40), 1)
	e, err = ima.ParseEntry(old)
	if err != nil || !e.Violation {
		t.Fatalf("entry of an older kernel %+v, %v", e, err)
	}
	if line, err := e.Line(); err != nil || line != old {
		t.Errorf("line of an older kernel %q, %v, want %q", line, err, old)
	}
}

func TestEntryRefusals(t *testing.T) {
	good := digestOf(crypto.SHA256, "a file")
	cases := map[string]struct {
		entry ima.Entry
		want  string
	}{
		"no template":       {ima.Entry{Digest: good, Path: "/a"}, `template "" is not modelled: use ima-ng or ima-sig`},
		"another template":  {ima.Entry{Template: "ima-buf", Digest: good, Path: "/a"}, `template "ima-buf" is not modelled: use ima-ng or ima-sig`},
		"signature":         {ima.Entry{Template: "ima-ng", Digest: good, Path: "/a", Signature: []byte{3}}, "use ima-sig"},
		"long signature":    {ima.Entry{Template: "ima-sig", Digest: good, Path: "/a", Signature: make([]byte, 65537)}, "signature has 65537 bytes"},
		"no digest":         {ima.Entry{Template: "ima-ng", Path: "/a"}, "use SHA-1, SHA-256, SHA-384 or SHA-512"},
		"another algorithm": {ima.Entry{Template: "ima-ng", Digest: ima.Digest{Hash: crypto.MD5, Sum: make([]byte, 16)}, Path: "/a"}, "file digest by MD5"},
		"short digest": {
			ima.Entry{Template: "ima-ng", Digest: ima.Digest{Hash: crypto.SHA256, Sum: good.Sum[:20]}, Path: "/a"},
			"file digest has 20 bytes, sha256 has 32: give the digest whole",
		},
		"violation of a known file": {ima.Entry{Template: "ima-ng", Digest: good, Path: "/a", Violation: true}, "violation has a file digest"},
		"no path":                   {ima.Entry{Template: "ima-ng", Digest: good}, "path is empty"},
		"long path":                 {ima.Entry{Template: "ima-ng", Digest: good, Path: strings.Repeat("a", 4096)}, "has 4096 bytes: Linux has paths of up to 4095"},
		"NUL":                       {ima.Entry{Template: "ima-ng", Digest: good, Path: "/a\x00b"}, `path "/a\x00b" has a NUL or a line feed`},
		"line feed":                 {ima.Entry{Template: "ima-ng", Digest: good, Path: "/a\nb"}, `path "/a\nb" has a NUL or a line feed`},
	}
	list, err := ima.NewList(ima.TemplateNG, good)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range cases {
		if err := c.entry.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
		if _, err := c.entry.Line(); err == nil {
			t.Errorf("%s: it has a line", name)
		}
		if err := list.Append(c.entry); err == nil || !strings.Contains(err.Error(), "IMA list, entry 1: ") || list.Len() != 1 {
			t.Errorf("%s: appended: error %v, %d entries", name, err, list.Len())
		}
	}
	if _, err := (ima.Entry{Template: "ima-ng", Digest: good, Path: "/a"}).Extension(crypto.SHA224); err == nil ||
		err.Error() != "no PCR bank by SHA-224: use SHA-1, SHA-256, SHA-384 or SHA-512" {
		t.Errorf("bank of SHA-224: error %v", err)
	}
	if _, err := ima.NewViolation("ima-ng", 0, "/a"); err == nil {
		t.Error("violation without an algorithm")
	}
}
