package images

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
)

// slimVersion is part of the key of all that slim makes: raise it whenever that changes what it takes.
const slimVersion = "slim 1"

// slim writes, of a root, only some programs, with the libraries that they are linked with and the links that lead to either: what every node of a cluster
// unpacks should be small. wanted are paths without the leading slash; one that ends with a slash is a folder with all that is in it, and may have an
// asterisk for a name.
func slim(archive, to string, wanted []string) (err error) {
	r, err := indexRoot(archive)
	if err != nil {
		return err
	}
	for _, w := range wanted {
		if err := r.takeWanted(w); err != nil {
			return fmt.Errorf("take %s out of %s: %w", w, archive, err)
		}
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := tar.NewWriter(out)
	err = eachEntry(archive, func(h *tar.Header, body io.Reader) error {
		if !r.taken[clean(h.Name)] {
			return nil
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err := io.Copy(w, body)
		return err
	})
	if err != nil {
		return err
	}
	return w.Close()
}

// rootIndex is what slim must know of a root.
type rootIndex struct {
	entries   map[string]*tar.Header
	needs     map[string][]string // of ELF files: their interpreter, by its path, and their libraries, by name
	libraries map[string]string   // name to path
	taken     map[string]bool
}

// clean is an entry's path without anything before it.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func eachEntry(archive string, do func(*tar.Header, io.Reader) error) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	for t := tar.NewReader(f); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = do(h, t)
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", archive, err)
		}
	}
}

func indexRoot(archive string) (*rootIndex, error) {
	r := &rootIndex{entries: map[string]*tar.Header{}, needs: map[string][]string{}, libraries: map[string]string{}, taken: map[string]bool{}}
	err := eachEntry(archive, func(h *tar.Header, body io.Reader) error {
		name := clean(h.Name)
		r.entries[name] = h
		if isLibraryFolder(path.Dir(name)) && h.Typeflag != tar.TypeDir {
			r.libraries[path.Base(name)] = name
		}
		if h.Typeflag != tar.TypeReg {
			return nil
		}
		data, err := io.ReadAll(body)
		if err == nil && bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
			r.needs[name], err = linkedWith(data)
		}
		return err
	})
	return r, err
}

// isLibraryFolder tells whether the dynamic linker looks there: Debian has libraries in usr/lib/x86_64-linux-gnu and its like.
func isLibraryFolder(dir string) bool {
	multiarch, err := path.Match("usr/lib/*-linux-gnu*", dir)
	return err == nil && multiarch || dir == "usr/lib" || dir == "usr/lib64"
}

// linkedWith is what an ELF file needs to run.
func linkedWith(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	needs, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			interpreter, err := io.ReadAll(p.Open())
			if err != nil {
				return nil, err
			}
			needs = append(needs, strings.TrimRight(string(interpreter), "\x00"))
		}
	}
	return needs, nil
}

func (r *rootIndex) takeWanted(w string) error {
	if !strings.HasSuffix(w, "/") {
		return r.take(w)
	}
	found := false
	for name, h := range r.entries {
		if in, err := path.Match(w+"*", name); err != nil {
			return err
		} else if in && h.Typeflag != tar.TypeDir {
			found = true
			if err := r.take(name); err != nil {
				return err
			}
		}
	}
	if !found {
		return errors.New("there is no such folder, or nothing in it")
	}
	return nil
}

// maxLinks is how many links a path may lead through.
const maxLinks = 40

// take takes a file, the links on the way to it, and what it is linked with.
func (r *rootIndex) take(name string) error {
	real, err := r.follow(clean(name), maxLinks)
	if err != nil || r.taken[real] {
		return err
	}
	r.taken[real] = true
	for _, n := range r.needs[real] {
		if !strings.HasPrefix(n, "/") {
			library, ok := r.libraries[n]
			if !ok {
				return fmt.Errorf("%s needs the library %s, which is not there", real, n)
			}
			n = library
		}
		if err := r.take(n); err != nil {
			return err
		}
	}
	return nil
}

// follow is the path without links in it, of which it takes each.
func (r *rootIndex) follow(name string, links int) (string, error) {
	if links == 0 {
		return "", fmt.Errorf("%s leads through too many links", name)
	}
	parts := strings.Split(name, "/")
	for i := range parts {
		so := strings.Join(parts[:i+1], "/")
		h := r.entries[so]
		if h == nil || h.Typeflag != tar.TypeSymlink && h.Typeflag != tar.TypeLink {
			continue
		}
		r.taken[so] = true
		target := h.Linkname
		if h.Typeflag == tar.TypeSymlink && !strings.HasPrefix(target, "/") {
			target = path.Join(path.Dir(so), target)
		}
		return r.follow(clean(path.Join(append([]string{target}, parts[i+1:]...)...)), links-1)
	}
	if h := r.entries[name]; h == nil || slices.Contains([]byte{tar.TypeDir, tar.TypeChar, tar.TypeBlock}, h.Typeflag) {
		return "", fmt.Errorf("there is no file %s", name)
	}
	return name, nil
}
