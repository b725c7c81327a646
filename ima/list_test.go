package ima_test

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"keylab.dev/keylab/ima"
)

// madeList has an entry of each kind: boot_aggregate, ima-ng, ima-sig with and without a signature, all algorithms, a violation.
func madeList(t testing.TB) *ima.List {
	t.Helper()
	list, err := ima.NewList(ima.TemplateNG, digestOf(crypto.SHA256, "PCRs 0 to 9"))
	if err != nil {
		t.Fatal(err)
	}
	violation, err := ima.NewViolation(ima.TemplateSig, crypto.SHA512, "/var/log/messages")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []ima.Entry{
		{Template: ima.TemplateNG, Digest: digestOf(crypto.SHA1, "init"), Path: "/usr/sbin/init"},
		{Template: ima.TemplateSig, Digest: digestOf(crypto.SHA384, "dash"), Path: "/usr/bin/dash", Signature: []byte{3, 2, 4}},
		{Template: ima.TemplateSig, Digest: digestOf(crypto.SHA512, "text"), Path: "/srv/a file (deleted)"},
		violation,
		{Template: ima.TemplateNG, Digest: digestOf(crypto.SHA256, "not UTF-8"), Path: "/srv/\xff\r"},
	} {
		if err := list.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

func TestRoundTrip(t *testing.T) {
	list := madeList(t)
	var text bytes.Buffer
	n, err := list.WriteTo(&text)
	if err != nil || n != int64(text.Len()) || text.String() != list.String() {
		t.Fatalf("WriteTo gave %d bytes, %v, for %d", n, err, text.Len())
	}
	if strings.Count(text.String(), "\n") != list.Len() || !strings.Contains(text.String(), " /srv/a_file_(deleted) \n") {
		t.Errorf("text\n%s", text.String())
	}
	again, err := ima.Parse(iotest.OneByteReader(&text))
	if err != nil {
		t.Fatal(err)
	}
	if again.String() != list.String() {
		t.Errorf("text\n%s\nwant\n%s", again, list)
	}
	if got, want := again.Entries(), list.Entries(); !reflect.DeepEqual(got, want) {
		t.Errorf("entries %+v, want %+v", got, want)
	}
}

func TestLines(t *testing.T) {
	list := madeList(t)
	lines := strings.SplitAfter(list.String(), "\n")
	for from := range list.Len() + 1 {
		got, err := list.Lines(from)
		if want := strings.Join(lines[from:], ""); err != nil || got != want {
			t.Errorf("from %d: %q, %v, want %q", from, got, err, want)
		}
	}
	for _, from := range []int{-1, 7} {
		if got, err := list.Lines(from); err == nil || !strings.HasSuffix(err.Error(), "ask for 0 to 6") {
			t.Errorf("from %d: %q, %v", from, got, err)
		}
	}
}

// TestReplay extends a PCR as a TPM does, entry by entry.
func TestReplay(t *testing.T) {
	list := madeList(t)
	pcr := make([]byte, 32)
	for i, e := range list.Entries() {
		extension := bytes.Repeat([]byte{0xff}, 32)
		if i != 4 { // the violation
			data, err := e.TemplateData()
			if err != nil {
				t.Fatal(err)
			}
			hash := sha256.Sum256(data)
			extension = hash[:]
		}
		value := sha256.Sum256(append(pcr, extension...))
		pcr = value[:]
	}
	if got, err := list.Replay(crypto.SHA256); err != nil || !bytes.Equal(got, pcr) {
		t.Errorf("PCR 10 is %x, %v, want %x", got, err, pcr)
	}
	for _, bank := range banks {
		extensions, err := list.Extensions(bank)
		if err != nil || len(extensions) != list.Len() {
			t.Fatalf("%v: %d extensions, %v", bank, len(extensions), err)
		}
		value, err := list.Replay(bank)
		if err != nil || len(value) != bank.Size() {
			t.Errorf("%v: PCR 10 is %x, %v", bank, value, err)
		}
	}
	if _, err := list.Replay(crypto.MD5); err == nil || !strings.HasPrefix(err.Error(), "no PCR bank by MD5") {
		t.Errorf("bank of MD5: error %v", err)
	}
}

// TestReplayOfOneEntry has a value computed by other means: sha1(20 zero bytes, 1d8d532d...), the first PCR 10 of a machine whose
// kernel had no PCRs to aggregate.
func TestReplayOfOneEntry(t *testing.T) {
	list, err := ima.NewList(ima.TemplateNG, ima.Digest{Hash: crypto.SHA1, Sum: make([]byte, 20)})
	if err != nil {
		t.Fatal(err)
	}
	got, err := list.Replay(crypto.SHA1)
	if want := fromHex(t, "75103fd9bb3bb21b28a3d2ddf0d2576bd7f7a17e"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("PCR 10 is %x, %v, want %x", got, err, want)
	}
}

// TestListKeepsItsOwn changes what went in and what came out, which must not change the list.
func TestListKeepsItsOwn(t *testing.T) {
	list, err := ima.NewList(ima.TemplateNG, digestOf(crypto.SHA256, "PCRs 0 to 9"))
	if err != nil {
		t.Fatal(err)
	}
	e := ima.Entry{Template: ima.TemplateSig, Digest: digestOf(crypto.SHA256, "a"), Path: "/a", Signature: []byte{3}}
	if err := list.Append(e); err != nil {
		t.Fatal(err)
	}
	before, err := list.Replay(crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	e.Digest.Sum[0]++
	e.Signature[0]++
	out := list.Entries()[1]
	out.Digest.Sum[0]++
	out.Signature[0]++
	if after, err := list.Replay(crypto.SHA256); err != nil || !bytes.Equal(after, before) {
		t.Errorf("PCR 10 is %x, %v, was %x", after, err, before)
	}
}

func TestFirstEntry(t *testing.T) {
	var list ima.List
	err := list.Append(ima.Entry{Template: ima.TemplateNG, Digest: digestOf(crypto.SHA256, "a"), Path: "/a"})
	if want := `IMA list, entry 0: "/a" comes first: a list begins with a boot_aggregate: make or read it from there on`; err == nil ||
		err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if _, err := ima.NewList(ima.TemplateNG, ima.Digest{}); err == nil {
		t.Error("boot_aggregate without a digest")
	}
}

func TestLongestList(t *testing.T) {
	list, err := ima.NewList(ima.TemplateNG, digestOf(crypto.SHA256, "PCRs 0 to 9"))
	if err != nil {
		t.Fatal(err)
	}
	e := ima.Entry{
		Template: ima.TemplateSig, Digest: digestOf(crypto.SHA256, "a"), Path: "/a", Signature: make([]byte, ima.MaxSignatureBytes),
	}
	for err == nil && list.Len() < 1000 {
		err = list.Append(e)
	}
	if err == nil || !strings.HasSuffix(err.Error(), "the list would have more than 16777216 bytes: reboot the node") {
		t.Fatalf("%d entries: error %v", list.Len(), err)
	}
	if _, err := ima.Parse(strings.NewReader(list.String())); err != nil {
		t.Errorf("the longest list: %v", err)
	}
	if _, err := ima.Parse(strings.NewReader(list.String() + list.String())); err == nil ||
		err.Error() != "IMA list has more than 16777216 bytes: reboot the node, or measure less" {
		t.Errorf("a longer list: %v", err)
	}
}

type brokenWriter struct{}

var errBroken = errors.New("disk full")

func (brokenWriter) Write([]byte) (int, error) { return 0, errBroken }

func TestBrokenReaderAndWriter(t *testing.T) {
	if _, err := madeList(t).WriteTo(brokenWriter{}); !errors.Is(err, errBroken) {
		t.Errorf("writing: %v", err)
	}
	if _, err := ima.Parse(iotest.ErrReader(errBroken)); !errors.Is(err, errBroken) {
		t.Errorf("reading: %v", err)
	}
}
