package kind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keylab.dev/keylab/lab/internal/fakedocker"
	"keylab.dev/keylab/lab/state"
)

// Of the copies of keylab in the cache those stay that somebody uses, or has just asked for, and what is not keylab's.
func TestPrunePrograms(t *testing.T) {
	cache := t.TempDir()
	t.Setenv(state.EnvBase, t.TempDir())
	old := time.Now().Add(-time.Hour)
	program := func(digit string, asked time.Time) string {
		path := filepath.Join(programsDir(cache), strings.Repeat(digit, programDigits), "keylab")
		for name, size := range map[string]int{path: 100, filepath.Join(filepath.Dir(path), "image.tar"): 50} {
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, make([]byte, size), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chtimes(filepath.Dir(path), asked, asked); err != nil {
			t.Fatal(err)
		}
		return path
	}
	stay := map[string]string{
		"the running one": program("0", old), "a lab's": program("1", old), "a container's": program("2", old), "a new one": program("3", time.Now()),
	}
	gone := []string{program("a", old), program("b", old)}
	notOurs := filepath.Join(programsDir(cache), "notes")
	if err := os.WriteFile(notOurs, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(notOurs, old, old); err != nil {
		t.Fatal(err)
	}
	stay["another file"] = notOurs

	dir, err := state.For("made")
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Create(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(factsFile(dir), []byte(`{"program": "`+stay["a lab's"]+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := state.For("netns") // has no such file
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Create(); err != nil {
		t.Fatal(err)
	}
	d := fakedocker.New()
	d.Mounts = []string{stay["a container's"]}
	d.Serve(t)
	docker, err := NewClient()
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close()
	freed, err := prunePrograms(t.Context(), docker, cache, stay["the running one"])
	if err != nil || freed != 300 {
		t.Errorf("freed %d bytes, want 300; %v", freed, err)
	}
	for what, path := range stay {
		if !exists(path) {
			t.Errorf("%s is gone", what)
		}
	}
	for _, path := range gone {
		if exists(filepath.Dir(path)) {
			t.Errorf("%s is still there", path)
		}
	}
	// What is known of a lab cannot be read: then nothing is certain, and nothing goes.
	unsure := program("c", old)
	if err := os.WriteFile(factsFile(dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := prunePrograms(t.Context(), docker, cache, stay["the running one"]); err == nil || !exists(unsure) {
		t.Errorf("a lab that cannot be read: %v, and the program is there: %t", err, exists(unsure))
	}
}

// One that is stored again is as good as new.
func TestStoreProgramMarks(t *testing.T) {
	cache := t.TempDir()
	program := filepath.Join(t.TempDir(), "keylab")
	// What an ELF file is at least: a header (System V ABI, chapter 4), here of a 64-bit program without segments, and so without a dynamic linker.
	header := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Ehsize: 64, Phentsize: 56, Shentsize: 64}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	var file bytes.Buffer
	if err := binary.Write(&file, binary.LittleEndian, header); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, file.Bytes(), 0o755); err != nil {
		t.Fatal(err)
	}
	path, err := storeProgram(cache, program)
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Dir(path), old, old); err != nil {
		t.Fatal(err)
	}
	again, err := storeProgram(cache, program)
	if err != nil || again != path {
		t.Fatalf("stored again at %s, %v; want %s", again, err, path)
	}
	info, err := os.Stat(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if time.Since(info.ModTime()) > time.Minute {
		t.Errorf("its folder is of %s", info.ModTime())
	}
}
