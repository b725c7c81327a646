package images

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// What a node finds in its store is the image that was built, though compressed by what is quick to unpack.
func TestBundle(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("a program"), 0o700); err != nil {
		t.Fatal(err)
	}
	layer, err := programLayer(map[string]string{"/usr/bin/program": program})
	if err != nil {
		t.Fatal(err)
	}
	if err := writeImage(dir, "keylab.test/built:1", v1.Config{Entrypoint: []string{"/usr/bin/program"}}, layer); err != nil {
		t.Fatal(err)
	}
	built := filepath.Join(dir, imageFile)
	all := filepath.Join(dir, "all.tar")
	if err := bundle(all, map[string]string{"keylab.test/first:1": built, "keylab.test/second:1": built}); err != nil {
		t.Fatal(err)
	}
	want := imageIn(t, built, nil)
	for _, reference := range []string{"keylab.test/first:1", "keylab.test/second:1"} {
		tag, err := name.NewTag(reference)
		if err != nil {
			t.Fatal(err)
		}
		got := imageIn(t, all, &tag)
		if id(t, got) != id(t, want) {
			t.Errorf("%s has the ID %s, but was built as %s", reference, id(t, got), id(t, want))
		}
	}
	f, err := os.ReadFile(all)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(f, []byte{0x28, 0xb5, 0x2f, 0xfd}) { // RFC 8878, section 3.1.1
		t.Error("no layer is compressed by zstd")
	}
}

func imageIn(t *testing.T, archive string, tag *name.Tag) v1.Image {
	t.Helper()
	i, err := tarball.ImageFromPath(archive, tag)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func id(t *testing.T, i v1.Image) v1.Hash {
	t.Helper()
	h, err := i.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return h
}
