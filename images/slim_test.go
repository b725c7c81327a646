package images

import (
	"archive/tar"
	"debug/elf"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rootFile is an entry of a root: a file's content, or where a link leads.
type rootFile struct{ name, content, link string }

func writeRoot(t *testing.T, files []rootFile) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "root.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, e := range files {
		h := &tar.Header{Name: "./" + e.name, Mode: 0o755, Typeflag: tar.TypeReg, Size: int64(len(e.content))}
		if e.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// A program of a root comes with its libraries, its interpreter, and the links to each, as Debian's alternatives and merged /usr have them; nothing else
// comes, and a library that is missing is named.
func TestSlim(t *testing.T) {
	program, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	if err != nil || len(libraries) == 0 {
		t.Fatalf("/bin/sh is linked with %v: %v", libraries, err)
	}
	var interpreter string
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			data, err := io.ReadAll(p.Open())
			if err != nil {
				t.Fatal(err)
			}
			interpreter = strings.Trim(string(data), "/\x00")
		}
	}
	linker := filepath.Base(interpreter)
	top := strings.Split(interpreter, "/")[0] // lib or lib64
	root := []rootFile{
		{name: top, link: "usr/" + top}, {name: "usr/" + interpreter, link: "/usr/lib/x86_64-linux-gnu/" + linker + ".2"},
		{name: "usr/lib/x86_64-linux-gnu/" + linker + ".2", content: "the linker"},
		{name: "usr/sbin/tool", link: "/etc/alternatives/tool"}, {name: "etc/alternatives/tool", link: "/usr/sbin/tool-new"},
		{name: "usr/sbin/tool-new", link: "multi"}, {name: "usr/sbin/multi", content: string(program)},
		{name: "usr/lib/x86_64-linux-gnu/plugins/one.so", content: "one"}, {name: "usr/lib/x86_64-linux-gnu/plugins/two.so", content: "two"},
		{name: "usr/bin/other", content: "other"}, {name: "usr/lib/x86_64-linux-gnu/libother.so", content: "other"},
	}
	want := []string{top, "usr/" + interpreter, "usr/lib/x86_64-linux-gnu/" + linker + ".2", "usr/sbin/tool", "etc/alternatives/tool", "usr/sbin/tool-new", "usr/sbin/multi",
		"usr/lib/x86_64-linux-gnu/plugins/one.so", "usr/lib/x86_64-linux-gnu/plugins/two.so"}
	wanted := []string{"usr/sbin/tool", "usr/lib/*/plugins/"}
	out := filepath.Join(t.TempDir(), "slim.tar")
	if err := slim(writeRoot(t, root), out, wanted); err == nil || !strings.Contains(err.Error(), "usr/sbin/multi needs the library "+libraries[0]+", which is not there") {
		t.Errorf("without its libraries: %v", err)
	}
	for _, l := range libraries {
		root = append(root, rootFile{name: "usr/lib/x86_64-linux-gnu/" + l, link: l + ".1"}, rootFile{name: "usr/lib/x86_64-linux-gnu/" + l + ".1", content: l})
		want = append(want, "usr/lib/x86_64-linux-gnu/"+l, "usr/lib/x86_64-linux-gnu/"+l+".1")
	}
	without := slices.DeleteFunc(slices.Clone(root), func(f rootFile) bool { return f.content == "the linker" })
	if err := slim(writeRoot(t, without), out, wanted); err == nil || !strings.Contains(err.Error(), "there is no file usr/lib/x86_64-linux-gnu/"+linker+".2") {
		t.Errorf("without its interpreter: %v", err)
	}
	if err := slim(writeRoot(t, root), out, wanted); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	err = eachEntry(out, func(h *tar.Header, r io.Reader) error {
		data, err := io.ReadAll(r)
		got[clean(h.Name)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range want {
		if _, ok := got[name]; !ok {
			t.Errorf("%s did not come", name)
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("%s came", name)
	}
	for _, missing := range []string{"usr/sbin/nothing", "usr/lib/*/nothing/", "usr/sbin"} {
		if err := slim(writeRoot(t, root), out, []string{missing}); err == nil || !slices.ContainsFunc([]string{"no file", "no such folder"}, func(s string) bool { return strings.Contains(err.Error(), s) }) {
			t.Errorf("%s: %v", missing, err)
		}
	}
}
