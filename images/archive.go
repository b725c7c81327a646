package images

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
)

// renameEntries copies a tar archive with a prefix before every name.
func renameEntries(to io.Writer, from io.Reader, prefix string) error {
	in, out := tar.NewReader(from), tar.NewWriter(to)
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return out.Close()
		}
		if err != nil {
			return fmt.Errorf("read the container's files: %w", err)
		}
		h.Name = prefix + h.Name
		if h.Typeflag == tar.TypeLink {
			h.Linkname = prefix + h.Linkname
		}
		if err := out.WriteHeader(h); err != nil {
			return fmt.Errorf("write %s: %w", h.Name, err)
		}
		if _, err := io.Copy(out, in); err != nil {
			return fmt.Errorf("write %s: %w", h.Name, err)
		}
	}
}

// firstEntry is the content of the first file of a tar archive.
func firstEntry(from io.Reader) ([]byte, error) {
	in := tar.NewReader(from)
	if _, err := in.Next(); err != nil {
		return nil, err
	}
	return io.ReadAll(in)
}
